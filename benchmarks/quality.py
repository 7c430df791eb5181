"""nst_jax's pictures beside two other recipes' at equal wall time. In the project:

python benchmarks/quality.py

nst_jax with its defaults, and neural-style-pt's and crowsonkb's recipes in PyTorch (`recipes`),
paint each pair of pictures (`PAIRS`) in the same seconds, one after another, each in a process of
its own (`quality_painter`); one judge looks at what they have after each quarter of the time
(`quality_judge`). ``benchmarks/QUALITY.md`` gets a section a pair, ``docs/quality/`` a contact
sheet a pair. Whatever was painted under the same conditions stays in ``build/quality``, so that a
run of single pairs or tools joins what is there.

Nothing else should run on the machine meanwhile. It takes pairs × tools × seconds and a little
more: tools whose steps must be known beforehand are calibrated for a fifth of a run or so.
"""

import argparse
import datetime
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import jax
from common import EXAMPLES, Message
from compare import meminfo, processor
from quality_judge import Judge
from quality_report import Section, write

from nst_jax.images import io as images
from nst_jax.models.prepare import network_dtype
from nst_jax.models.weights import load as weights

HERE: Final = Path(__file__).parent
PROJECT: Final = HERE.parent

PAIRS: Final = {
    "astronaut-swirls": ("astronaut", "swirls"),
    "cat-mosaic": ("cat", "mosaic"),
    "coffee-tissue": ("coffee", "tissue"),
}
"""A photo and a style: examples, and ``tissue``, a stained one under a microscope
(`skimage.data.immunohistochemistry`), for a texture that nobody painted."""

TOOLS: Final = ("nst_jax", "neural-style-pt", "crowsonkb")
SCHEDULES: Final = {
    "nst_jax": "{} steps at the last scale, at coarser ones more as by default, fitted to the time",
    "crowsonkb": "{first} steps at the first scale, {} at each other; the recipe: 1000 and 500",
}
"""The tools whose steps must be known beforehand; what their run is said to have been."""

FULL: Final = 0.9
"""The share of the time that a run must use at least."""
TRIES: Final = 3


def main() -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the others need the memory
    options = parse()
    for pair in options.pairs:
        compete(pair, options)


def compete(pair: str, options: argparse.Namespace) -> None:
    """Let every tool paint a pair, one after another, and write after each."""
    device, kind, precision = machine(options.precision)
    network = weights.load(options.weights)
    conditions = (f"{options.size}", f"{options.seconds:g}", precision, device, network.sha256[:8])
    folder = options.work / "-".join(conditions)
    content, style = (picture(subject, folder) for subject in PAIRS[pair])
    photo, painting = (images.read(path).pixels for path in (content, style))
    judge = Judge(options.weights, photo, painting, options.size)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {meminfo('MemTotal') / 2**30:.0f} GiB"
        + (f"; {kind}" if device != "cpu" else ""),
        "network": f"{network.model} in {precision}, {network.source}",
        "pictures": f"{options.size} pixels at the longest side",
        "time": f"{options.seconds:g} s a picture",
        "command": f"`{shlex.join(['python', 'benchmarks/quality.py', *_words(sys.argv[1:])])}`",
    }
    job = {
        "content": str(content),
        "style": str(style),
        "size": options.size,
        "weights": str(options.weights),
        "precision": precision,
        "device": device,
    }
    unpainted = judge(photo)._asdict()
    for tool in options.tools:
        say(f"{pair}: {tool}")
        place = folder / pair / tool
        run = paint({"name": tool, **job}, options.seconds, place)
        for quarter, mark in enumerate(run.get("marks", []), start=1):
            verdict = judge(images.read(place / f"{quarter}.png").pixels)
            mark["verdict"] = verdict._asdict()
            say(f"  {mark['seconds']:.1f} s, {mark['steps']} steps: {verdict.total:.4f}")
        (place / "run.json").write_text(json.dumps(run))
        runs = {name: run for name in TOOLS if (run := kept(folder / pair / name))}
        section = Section(pair, photo, painting, facts | versions(runs), unpainted, runs)
        write(section, options.output, options.sheets)
        say(f"  written to {options.output.name}")


def machine(choice: str) -> tuple[str, str, str]:
    """Where JAX computes, what that is, and the network's precision for a choice of it."""
    return jax.default_backend(), jax.devices()[0].device_kind, network_dtype(choice).name


def versions(runs: dict[str, dict[str, Any]]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for run in runs.values():
        found |= run.get("versions", {})
    return {"versions": ", ".join(f"{name} {version}" for name, version in found.items())}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare pictures at equal wall time.")
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--seconds", type=float, default=300, help="of each picture")
    parser.add_argument("--size", type=int, default=512, help="longest side in pixels")
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="all tools'"
    )
    parser.add_argument("--weights", type=Path, default=weights.bundled_path(), help="all tools'")
    parser.add_argument("--work", type=Path, default=PROJECT / "build" / "quality")
    parser.add_argument("--output", type=Path, default=HERE / "QUALITY.md")
    parser.add_argument("--sheets", type=Path, default=PROJECT / "docs" / "quality")
    return parser.parse_args()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _words(arguments: list[str]) -> list[str]:
    return [Path(word).name if word.startswith("/") else word for word in arguments]


def picture(subject: str, folder: Path) -> Path:
    """Where a picture is; scikit-image's is saved first."""
    if subject != "tissue":
        return EXAMPLES / f"{subject}.jpg"
    from skimage import data

    path = folder / "tissue.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(path, data.immunohistochemistry() / 255)
    return path


def paint(job: Message, seconds: float, folder: Path) -> dict[str, Any]:
    """Let a tool paint; an ``error`` instead of ``marks`` if it cannot.

    A run that its calibration gave too few steps, or too many to come to the whole size, is
    repeated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request = {"job": job, "seconds": seconds}
    if job["name"] not in SCHEDULES:
        answer = ask({**request, "steps": None, "folder": str(folder)})
        return {"schedule": "as many steps as fit", **answer}
    answer = ask(request)
    steps = answer.get("steps", 0)
    for _ in range(TRIES):
        if "error" in answer:
            break
        answer = ask({**request, "steps": steps, "folder": str(folder)})
        schedule = SCHEDULES[job["name"]].format(steps, first=2 * steps)
        answer = {"schedule": schedule, **answer}
        used = answer["marks"][-1]["seconds"] / seconds if "marks" in answer else 1
        if used < FULL:
            steps = math.ceil(steps / used)
        elif not answer.get("whole", True) and steps > 1:
            steps = int(steps * FULL**3)
        else:
            break
    return answer


def ask(request: Message) -> Message:
    """Start a painter's process and wait for its answer."""
    environment = os.environ | {
        "NST_JAX_OFFLINE": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is compiled counts
    }
    if request["job"]["device"] == "cpu":
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(HERE / "quality_painter.py"), json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode < 0:
        return {"error": f"its process was ended by {signal.Signals(-done.returncode).name}"}
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or ["its process ended"])[-1][:160]}
    return json.loads(done.stdout.splitlines()[-1])


def kept(folder: Path) -> dict[str, Any]:
    """A tool's last run under these conditions, with the picture that it delivered."""
    path = folder / "run.json"
    run = json.loads(path.read_text()) if path.exists() else {}
    if run.get("marks"):
        run["picture"] = images.read(folder / f"{len(run['marks'])}.png").pixels
    return run


if __name__ == "__main__":
    main()
