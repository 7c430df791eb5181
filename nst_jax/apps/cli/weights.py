"""The commands ``nst-jax weights …``: list, download, convert and verify weight files."""

from pathlib import Path

import click

from nst_jax._types import Preprocessing
from nst_jax.errors import InputError, escape
from nst_jax.networks import weights as weight_files
from nst_jax.networks.weights.download import vgg19_url
from nst_jax.networks.weights.registry import CAFFE_LICENSE, VGG19_MD5, VGG19_SIZE

__all__ = ["weights"]

FILE = click.Path(path_type=Path)
PREPROCESSING = click.Choice(["caffe", "torchvision"])


@click.group()
def weights() -> None:
    """List, download, convert and check the networks' weights."""


@weights.command("list")
def list_weights() -> None:
    """Show the weights that are bundled, cached, or available for download."""
    _print_report("bundled", weight_files.verify(weight_files.bundled_path()))
    cached = weight_files.vgg19_cache_path()
    if cached.is_file():
        _print_report("cached", weight_files.verify(cached))
    else:
        _print_fields(
            {
                "downloadable": f"VGG19 ({VGG19_SIZE / 1e6:.1f} MB)",
                "command": "nst-jax weights fetch vgg19",
                "url": vgg19_url(),
                "md5": VGG19_MD5,
                "license": CAFFE_LICENSE,
                "destination": str(cached),
            }
        )


@weights.command()
@click.argument("model", type=click.Choice(["vgg19"]))
@click.option("--url", help="Download the same file from another address. Its hash is checked.")
def fetch(model: str, url: str | None) -> None:
    """Download MODEL from Keras' server into the cache, unless it is there."""
    url, cached = url or vgg19_url(), weight_files.vgg19_cache_path()
    click.echo(escape(f"VGG19 ({VGG19_SIZE / 1e6:.1f} MB) from {url} to {cached}") + "\n")
    _print_report("cached", weight_files.verify(weight_files.download(url=url)))


@weights.command()
@click.argument("source", metavar="SRC", type=FILE)
@click.argument("target", metavar="DST", type=FILE)
@click.option(
    "--preprocessing",
    type=PREPROCESSING,
    help="The preprocessing that SRC was trained with, if SRC does not say it: BGR in 0..255 minus "
    "the mean, or standardized RGB.",
)
@click.option("--half", is_flag=True, help="Store float16, which halves the size.")
def convert(source: Path, target: Path, preprocessing: Preprocessing | None, half: bool) -> None:
    """Convert SRC (Keras HDF5, safetensors or PyTorch .pth) to the safetensors file DST."""
    if source.exists() and target.exists() and source.samefile(target):
        raise InputError(f"{str(target)!r} is also the source; choose another name")
    loaded = weight_files.load(source, preprocessing=preprocessing)
    weight_files.save(target, loaded, dtype="float16" if half else "float32")
    _print_report("written", weight_files.verify(target))


@weights.command()
@click.argument("file", type=FILE, required=False)
@click.option(
    "--preprocessing",
    type=PREPROCESSING,
    help="The preprocessing that FILE was trained with, if FILE does not say it.",
)
def verify(file: Path | None, preprocessing: Preprocessing | None) -> None:
    """Check layers, shapes, values and hash of FILE, or of the bundled weights."""
    path = file or weight_files.bundled_path()
    _print_report("file", weight_files.verify(path, preprocessing=preprocessing))
    click.echo("ok: all layers are there, all shapes are right, all values are finite")


def _print_report(label: str, report: weight_files.VerifyReport) -> None:
    file = report.weights
    _print_fields(
        {
            label: f"{file.path} ({file.path.stat().st_size / 1e6:.1f} MB)",
            "model": f"{file.model.upper()}, {len(file.params) - 1} convolutions",
            "format": f"{report.format}, {report.dtype}",
            "preprocessing": report.preprocessing,
            "sha256": file.sha256 + (" (the bundled file's)" if report.hash_verified else ""),
            "source": file.source,
            "license": file.license,
        }
    )


def _print_fields(fields: dict[str, str]) -> None:
    for name, value in fields.items():
        click.echo(escape(f"{name + ':':<15}{value}"))  # A file's source may say anything.
    click.echo()
