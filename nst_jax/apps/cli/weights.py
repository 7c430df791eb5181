"""The commands ``nst-jax weights …``: list, fetch, convert and verify weight files."""

from pathlib import Path

import click

from nst_jax.models.weights import load as weights
from nst_jax.models.weights import registry as origins
from nst_jax.models.weights.load import Preprocessing, Report

__all__ = ["group"]

FILE = click.Path(path_type=Path)


@click.group("weights")
def group() -> None:
    """List, download, convert and check the networks' weights."""


@group.command("list")
def list_weights() -> None:
    """Show the weights that are bundled, cached or can be downloaded."""
    _show("bundled", weights.verify(weights.bundled_path()))
    cached = weights.cached_path()
    if cached.is_file():
        _show("cached", weights.verify(cached))
        return
    _print_fields(
        {
            "downloadable": f"VGG19 ({origins.VGG19_SIZE / 1e6:.1f} MB)",
            "with": "nst-jax weights fetch vgg19",
            "url": origins.VGG19_URL,
            "md5": origins.VGG19_MD5,
            "licence": origins.CAFFE_LICENCE,
            "goes to": str(cached),
        }
    )


@group.command()
@click.argument("model", type=click.Choice(["vgg19"]))
@click.option("--url", help="A mirror of the same file; its hash is checked all the same.")
def fetch(model: str, url: str | None) -> None:
    """Download MODEL from Keras' server into the cache."""
    _show("cached", weights.verify(weights.fetch(url=url)))


@group.command()
@click.argument("source", metavar="SRC", type=FILE)
@click.argument("target", metavar="DST", type=FILE)
@click.option(
    "--preprocessing",
    type=click.Choice(["caffe", "torchvision"]),
    help="How SRC was trained, where it does not say: on BGR in 0..255, or on standardised RGB.",
)
@click.option("--half", is_flag=True, help="Store float16, half the size.")
def convert(source: Path, target: Path, preprocessing: Preprocessing | None, half: bool) -> None:
    """Convert SRC (Keras HDF5, PyTorch .pth or safetensors) to the safetensors file DST."""
    loaded = weights.load(source, preprocessing=preprocessing)
    weights.save(target, loaded, dtype="float16" if half else "float32")
    _show("written", weights.verify(target))


@group.command()
@click.argument("file", type=FILE, required=False)
@click.option(
    "--preprocessing",
    type=click.Choice(["caffe", "torchvision"]),
    help="How FILE was trained, where it does not say.",
)
def verify(file: Path | None, preprocessing: Preprocessing | None) -> None:
    """Check FILE, or else the bundled weights: layers, shapes, finite values, the pinned hash."""
    report = weights.verify(file or weights.bundled_path(), preprocessing=preprocessing)
    _show("file", report)
    click.echo("ok: all layers are there, shapes are right, all values are finite")


def _show(what: str, report: Report) -> None:
    found = report.weights
    size = found.path.stat().st_size
    _print_fields(
        {
            what: f"{found.path} ({size / 1e6:.1f} MB)",
            "model": f"{found.model.upper()}, {len(found.params) - 1} convolutions",
            "format": f"{report.format}, {report.dtype}",
            "preprocessing": report.preprocessing,
            "sha256": found.sha256 + (" (as pinned)" if report.pinned else ""),
            "source": found.source,
            "licence": found.licence,
        }
    )


def _print_fields(fields: dict[str, str]) -> None:
    for name, value in fields.items():
        click.echo(f"{name + ':':<15}{value}")
    click.echo()
