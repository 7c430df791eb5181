"""The command line, on real photos. What hangs on the process itself (start, signals, streams) runs
as a program of its own; the rest calls the same command in this process, which has JAX loaded."""

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageCms

from nst_jax import PAPER
from nst_jax.apps.cli import run as cli_job
from nst_jax.apps.cli.main import main
from nst_jax.images import io as images
from nst_jax.models.weights import load as weights
from nst_jax.pipeline import plan

pytestmark = pytest.mark.usefixtures("folder")

EXAMPLES = Path(__file__).parents[1] / "examples"
CAT, INK, SWIRLS = (EXAMPLES / f"{name}.jpg" for name in ("cat", "ink", "swirls"))
PROGRAM = [sys.executable, "-m", "nst_jax.cli"]

# Small pictures and shallow layers are quick to compile. Later options go over earlier ones.
SMALL = ("--size", "64", "--steps", "3", "--model", "vgg16", "-q")
FOR_TEXTURE = (*SMALL, "--style-layers", "relu1_1,relu2_1:0.5")
FOR_CONTENT = (*SMALL, "--content-layers", "relu2_2")
FOR_BOTH = (*FOR_TEXTURE, *FOR_CONTENT)


@pytest.fixture(autouse=True)
def _loggers():
    """A program owns its log; a test gives it back."""
    logger = logging.getLogger("nst_jax")
    kept = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = kept


def call(*arguments):
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def made(*arguments, out="out.png"):
    """Run a job that must succeed; give its picture."""
    result = call(*arguments, "-o", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: ")
    return images.read(out).pixels


def settings_of(path):
    return json.loads(images.read_metadata(path)["nst_jax"])


def refused(*arguments):
    """Run a job that must be refused: exit code 2, no traceback, nothing on stdout."""
    result = call(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    return result.stderr


def error_line(*arguments):
    """Run a job that must be refused in one line."""
    (line,) = refused(*arguments).splitlines()
    assert line.startswith("error: ")
    return line


# The program as users start it


def test_a_whole_job_as_a_program():
    """PNG, bar, previews, trace and metadata of one run of the defaults' network."""
    command = [
        *PROGRAM,
        "stylize",
        CAT,
        INK,
        "-o",
        "out file ü.png",
        "--size",
        "64",
        "--steps",
        "12",
    ]
    command += ["--model", "vgg16", "--save-every", "5", "--trace", "trace.jsonl"]
    command += ["--dtype", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "out file ü.png: 64x43, 12 steps" in done.stdout
    assert "VGG16, float32 on" in done.stdout
    assert "12/12" in done.stderr
    assert "loss=" in done.stderr
    found = {path.name for path in Path().iterdir()}
    previews = {f"out file ü-{step:06d}.png" for step in (5, 10)}
    assert found == {"out file ü.png", "trace.jsonl", *previews}

    picture = images.read("out file ü.png").pixels
    content = images.resize(images.read(CAT).pixels, (43, 64))
    assert picture.shape == content.shape
    assert 0.02 < np.abs(picture - content).mean() < 0.5
    five, ten = (images.read(name).pixels for name in sorted(previews))
    assert np.abs(ten - picture).mean() < np.abs(five - picture).mean()

    noted = settings_of("out file ü.png")
    assert (noted["content"], noted["styles"]) == ("cat.jpg", ["ink.jpg"])
    assert (noted["model"], noted["steps_done"], noted["size"]) == ("vgg16", 12, 64)
    assert noted["weights_sha256"] == weights.load(weights.bundled_path()).sha256
    assert noted["style_layers"]["relu5_1"] == 0.1

    trace = [json.loads(line) for line in Path("trace.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in trace] == list(range(1, 13))
    assert all(np.isfinite(entry["total"]) for entry in trace)
    assert trace[-1]["total"] < 0.8 * trace[0]["total"]
    seconds = {entry["step"]: entry["seconds"] for entry in trace if "seconds" in entry}
    assert {5, 10, 12} <= set(seconds)
    assert all(0 < before <= after for before, after in pairwise(seconds.values()))


def test_help_of_every_command_needs_no_jax():
    program = """
import sys
from click.testing import CliRunner
from nst_jax.apps.cli.main import main
def leaves(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
for path in leaves(main):
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(main, [*path, flag])
        assert result.exit_code == 0 and result.output.startswith("Usage:"), (path, result)
    print(*path)
assert not {"jax", "flax", "optax"} & set(sys.modules), "JAX was imported"
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = {"stylize", "texture", "reconstruct", "weights", "weights fetch", "weights convert"}
    assert expected < set(done.stdout.splitlines())


def test_errors_of_the_program():
    """One line, exit code 2, by the console script if there is one."""
    script = Path(sys.executable).with_name("nst-jax")
    program = [script] if script.exists() else PROGRAM
    command = [*program, "stylize", "none.jpg", INK, "-o", "out.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: content 'none.jpg': cannot be opened")
    assert done.stderr.count("\n") == 1
    assert not any(Path().iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_the_picture_so_far(wish):
    command = [*PROGRAM, "stylize", CAT, INK, "-o", "out.png", *FOR_BOTH]
    command = [word for word in command if word != "-q"]
    command += ["--steps", "20000", "--optimizer", "adam"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        told = b""
        while b"loss=" not in told:
            told += (piece := os.read(running.stderr.fileno(), 4096))
            assert piece, told
        running.send_signal(wish)
        out, rest = running.communicate(timeout=60)
    told = (told + rest).decode()
    assert running.returncode == 130, told
    assert "stopping after this step" in told
    assert "out.png: stopped after" in told
    assert "Traceback" not in told
    assert out == b""
    done = settings_of("out.png")["steps_done"]
    assert f"stopped after {done} of 20000 steps" in told
    assert 0 < done < 20000
    assert images.read("out.png").pixels.shape == (43, 64, 3)
    assert "--resume goes on" in told
    assert Path("out.png.checkpoint").exists()


def test_an_interrupted_job_is_resumed_to_the_same_pixels_and_losses(monkeypatch):
    """The same command with --resume; its trace is whole."""
    job = ("stylize", CAT, INK, *FOR_BOTH, "--min-scale", "32", "--steps", "3,4,5")
    whole = made(*job, "--trace", "whole.jsonl", out="whole.png")
    with monkeypatch.context() as patch:
        kill = partial(os.kill, os.getpid(), signal.SIGINT)
        patch.setattr(cli_job.Bar, "__call__", lambda self, now: now.step == 4 and kill())
        stopped = call(*job, "--trace", "out.jsonl", "-o", "out.png")
    assert stopped.exit_code == 130
    assert 0 < settings_of("out.png")["steps_done"] < 12
    with Path("out.jsonl").open("a") as trace:  # written after the checkpoint, and cut off
        trace.write('{"step": 11, "total": 1.0}\n{"step": 12, "to')
    resumed = made(*job, "--trace", "out.jsonl", "--resume")
    np.testing.assert_array_equal(resumed, whole)
    traces = [
        [json.loads(line)["total"] for line in Path(name).read_text().splitlines()]
        for name in ("whole.jsonl", "out.jsonl")
    ]
    assert traces[0] == traces[1]
    assert len(traces[0]) == 12
    assert not Path("out.png.checkpoint").exists()
    assert "nothing to resume" in error_line(*job, "-o", "out.png", "--resume")


def test_a_pyramid_is_asked_for_and_told():
    result = call(
        "stylize", CAT, INK, *FOR_BOTH, "--min-scale", "32", "--steps", "1,2", "-o", "a.png"
    )
    assert "64x43, 5 steps at 3 scales with 6 programs in" in result.stdout
    assert settings_of("a.png")["scales"] == [32, 45, 64]
    result = call("texture", INK, *FOR_TEXTURE, "--min-scale", "none", "-o", "b.png")
    assert "3 steps in" in result.stdout
    options = ("--optimizer", "adam", "--average", "0.5", "--style-scales", "0.5")
    made("stylize", CAT, INK, *FOR_BOTH, *options)
    assert (settings_of("out.png")["average"], settings_of("out.png")["style_scales"]) == (
        0.5,
        [0.5],
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_interrupt_before_the_first_step_leaves_nothing():
    os.mkfifo("content.png")
    command = [*PROGRAM, "stylize", "content.png", INK, "-o", "out.png", *FOR_BOTH]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        writer = os.open("content.png", os.O_WRONLY)  # returns when the program opens it
        running.send_signal(signal.SIGINT)
        os.close(writer)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    if b"Exception ignored in" not in err:  # it came during a garbage collection
        assert b"Traceback" not in err
    assert out == b""
    assert not Path("out.png").exists()


def test_an_interrupt_ends_a_compilation():
    environment = os.environ | {"JAX_LOG_COMPILES": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    command = [*PROGRAM, "stylize", CAT, INK, "-o", "out.png", "--model", "vgg16", "--size", "64"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        for line in running.stderr:
            if "Finished jaxpr to MLIR module conversion jit(_chunk)" in line:
                break
        running.send_signal(signal.SIGINT)
        told = running.stderr.read()
    assert running.returncode == 130
    assert "Aborted!" in told
    assert "Finished XLA compilation of jit(_chunk)" not in told
    assert not Path("out.png").exists()


def test_an_interrupt_that_python_ignores_stops_after_the_first_step():
    with cli_job.stop_on_interrupt() as interrupted:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupted(started=True)


# Jobs


@pytest.mark.parametrize("out", ["out.jpg", "out.jpeg", "out.webp", "out.tif", "OUT.PNG"])
def test_every_format_has_the_settings(out):
    picture = made("stylize", CAT, INK, *FOR_BOTH, out=out)
    assert picture.shape == (43, 64, 3)
    noted = settings_of(out)
    assert (noted["steps_done"], noted["content"], noted["model"]) == (3, "cat.jpg", "vgg16")
    assert len(noted["weights_sha256"]) == 64
    assert noted["style_layers"] == {"relu1_1": 1.0, "relu2_1": 0.5}
    assert noted["content_layers"] == {"relu2_2": 1.0}


def test_quiet_says_only_what_was_made():
    result = call("stylize", CAT, INK, *FOR_BOTH, "-o", "out.png")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1


def test_two_styles_and_their_weights():
    job = ("stylize", CAT, INK, SWIRLS, *FOR_BOTH)
    equal, ink = made(*job), made(*job, "--style-weights", "1, 0")
    noted = settings_of("out.png")
    assert noted["styles"] == ["ink.jpg", "swirls.jpg"]
    assert noted["style_weights"] == [1.0, 0.0]
    alone = made("stylize", CAT, INK, *FOR_BOTH)
    assert np.abs(ink - alone).mean() < 0.01 < np.abs(equal - alone).mean()


def test_texture_and_reconstruct():
    texture = made("texture", INK, *FOR_TEXTURE)
    assert texture.shape == (64, 64, 3)
    assert settings_of("out.png")["content_weight"] == 0
    shallow = ("--content-layers", "relu1_1", "--steps", "30")
    rebuilt = made("reconstruct", CAT, *FOR_CONTENT, *shallow)
    content = images.resize(images.read(CAT).pixels, (43, 64))
    assert np.corrcoef(rebuilt.ravel(), content.ravel())[0, 1] > 0.95
    noted = settings_of("out.png")
    assert (noted["style_weight"], noted["init"]) == (0, "noise")


def test_size_original():
    Image.open(CAT).resize((70, 50)).save("content.png")
    assert made("stylize", "content.png", INK, *FOR_BOTH, "--size", "original").shape == (50, 70, 3)
    assert settings_of("out.png")["size"] is None


def test_seeds_and_starts():
    start = ("stylize", CAT, INK, *FOR_BOTH)
    noise = made(*start, "--init", "noise", "--seed", "1")
    assert (made(*start, "--init", "noise", "--seed", "1", out="b.png") == noise).all()
    other = made(*start, "--init", "noise", "--seed", "2")
    assert np.abs(noise - other).mean() > 0.05
    job = (*start, "--steps", "0", "--init")
    assert np.ptp(made(*job, "gray")) < 1 / 255
    assert np.ptp(made("texture", INK, *FOR_TEXTURE, "--steps", "0", "--init", "gray")) < 1 / 255
    drawn = made(*job, SWIRLS)
    np.testing.assert_allclose(
        drawn, images.resize(images.read(SWIRLS).pixels, (43, 64)), atol=0.5 / 255 + 1e-6
    )
    assert settings_of("out.png")["init"] == "swirls.jpg"


def test_same_seed_same_pixels_in_the_file():
    """The metadata holds times, so the files differ there and only there."""
    job = ("texture", INK, *FOR_TEXTURE, "--seed", "5")
    made(*job, out="a.png")
    made(*job, out="b.png")
    first, second = (Image.open(name) for name in ("a.png", "b.png"))
    assert first.tobytes() == second.tobytes()
    times = ("seconds", "compile_seconds", "steps_seconds")
    noted, again = (
        {k: v for k, v in settings_of(name).items() if k not in times}
        for name in ("a.png", "b.png")
    )
    assert noted == again


def test_preset_and_what_goes_over_it():
    made("stylize", CAT, INK, *FOR_BOTH, "--preset", "paper", "--pooling", "max", "--steps", "1")
    noted = settings_of("out.png")
    assert (noted["form"], noted["init"], noted["padding"]) == ("paper", "noise", "same")
    assert (noted["content_weight"], noted["style_weight"]) == (1.0, PAPER.style_weight)
    assert (noted["pooling"], noted["steps"]) == ("max", [1])
    made("stylize", CAT, INK, *FOR_BOTH, "--steps", "1")
    assert settings_of("out.png")["form"] == "relative"


def test_adam_and_its_learning_rate():
    job = ("stylize", CAT, INK, *FOR_BOTH, "--init", "gray", "--steps", "1", "--optimizer", "adam")
    picture = made(*job, "--lr", "0.1")
    assert np.median(np.abs(picture - 0.5)) == pytest.approx(0.1, abs=1 / 255)
    noted = settings_of("out.png")
    assert (noted["optimizer"], noted["lr"]) == ("adam", 0.1)


def test_bfloat16_is_close_to_float32():
    job = ("stylize", CAT, INK, *FOR_BOTH)
    full, half = made(*job, "--dtype", "float32"), made(*job, "--dtype", "bfloat16")
    assert settings_of("out.png")["dtype"] == "bfloat16"
    assert 0 < np.abs(full - half).mean() < 0.05


def test_auto_is_bfloat16_where_that_is_fast():
    made("stylize", CAT, INK, *FOR_BOTH)
    processor = Path("/proc/cpuinfo")
    flags = set(processor.read_text().split()) if processor.exists() else set()
    fast = flags & {"amx_bf16", "avx512_bf16"} or jax.default_backend() != "cpu"
    assert settings_of("out.png")["dtype"] == ("bfloat16" if fast else "float32")


def test_a_second_program_finds_what_the_first_compiled(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    command = [*PROGRAM, "stylize", CAT, INK, *map(str, FOR_BOTH), "-o", "out.png"]
    kept = tmp_path / "cache" / "compiled"
    pictures, entries, traced = [], [], []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        pictures.append(Path("out.png").read_bytes())
        traced.append(bool(re.search(r"Finished tracing.* flat ", done.stderr)))
        files = [*kept.glob("jit__chunk-*-cache"), *kept.glob("chunk-*.stablehlo")]
        entries.append({path: path.stat().st_mtime_ns for path in files})
        assert len(entries[-1]) == 2
    assert entries[0] == entries[1]
    assert traced == [True, False]

    def pixels(data):
        return np.asarray(Image.open(io.BytesIO(data)))

    np.testing.assert_array_equal(*map(pixels, pictures))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "compiled").write_text("in the way")
    command = [*PROGRAM, "stylize", CAT, INK, *map(str, FOR_BOTH), "-o", "out.png", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_jax_own_setting_for_its_cache_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    command = [*PROGRAM, "stylize", CAT, INK, *map(str, FOR_BOTH), "-o", "out.png", "-q"]
    subprocess.run(command, check=True)
    assert not (tmp_path / "cache" / "compiled").exists()


def test_a_weight_file():
    half = made("stylize", CAT, INK, *FOR_BOTH)
    given = made(
        "stylize", CAT, INK, *FOR_BOTH, "--model", "auto", "--weights", weights.bundled_path()
    )
    assert (given == half).all()
    assert settings_of("out.png")["weights"] == weights.bundled_path().name


def test_auto_says_once_that_it_uses_the_bundled_weights():
    result = call("stylize", CAT, INK, *FOR_BOTH, "--model", "auto", "-o", "out.png")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("note: Using the bundled VGG16 instead of VGG19")
    assert settings_of("out.png")["model"] == "vgg16"


def test_previews_rarer_than_the_steps_are_none():
    made("stylize", CAT, INK, *FOR_BOTH, "--save-every", "10")
    assert [path.name for path in Path().glob("*.png")] == ["out.png"]


def test_the_output_replaces_an_older_picture_and_keeps_links_to_folders():
    Path("real").mkdir()
    Path("link").symlink_to("real")
    Path("real/out.png").write_bytes(b"old")
    assert made("stylize", CAT, INK, *FOR_BOTH, out="link/out.png").shape == (43, 64, 3)
    assert [path.name for path in Path("real").iterdir()] == ["out.png"]


def write_gray(path, photo):
    Image.fromarray(photo).convert("L").save(path)


def write_palette(path, photo):
    Image.fromarray(photo).quantize(32).save(path)


def write_cmyk(path, photo):
    Image.fromarray(photo).convert("CMYK").save(path, quality=95)


def write_deep(path, photo):
    Image.fromarray(photo.mean(-1).astype(np.uint16) * 257).save(path)


def write_turned(path, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    Image.fromarray(np.rot90(photo)).save(path, exif=exif, quality=95)


def write_profile(path, photo):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo).save(path, icc_profile=profile)


INPUTS = {  # writer, is it gray
    "gray.png": (write_gray, True),
    "palette.gif": (write_palette, False),
    "cmyk.jpg": (write_cmyk, False),
    "16-bit.png": (write_deep, True),
    "turned.jpg": (write_turned, False),
    "profile.tif": (write_profile, False),
}


@pytest.mark.parametrize("name", INPUTS)
def test_kinds_of_files_as_content_and_style(photos, name):
    """Every kind gives about the picture of the plain file."""
    write, is_gray = INPUTS[name]
    photo = photos["chelsea"][40:240:2, 60:360:3]
    write(name, photo)
    plain = np.repeat(photo.mean(-1, keepdims=True), 3, -1) if is_gray else photo
    Image.fromarray(plain.astype(np.uint8)).save("plain.png")
    expected = made("stylize", "plain.png", "plain.png", *FOR_BOTH, "--steps", "0")
    start = made("stylize", name, name, *FOR_BOTH, "--steps", "0")
    assert start.shape == expected.shape == (64, 64, 3)
    assert np.abs(start - expected).mean() < 0.04


def test_transparency_is_kept(photos):
    photo = photos["chelsea"][40:240:2, 60:360:3]
    alpha = np.full((100, 100), 255, np.uint8)
    alpha[:50] = 0
    Image.fromarray(np.dstack([photo, alpha])).save("content.png")
    result = call("stylize", "content.png", INK, *FOR_BOTH, "-o", "out.png")
    assert (result.exit_code, result.stderr) == (0, "")
    kept = images.read("out.png").alpha
    assert kept.shape == (64, 64)
    assert (kept[:30] == 0).all()
    assert (kept[34:] == 1).all()
    result = call("stylize", "content.png", INK, *FOR_BOTH, "-o", "out.jpg")
    assert result.exit_code == 0
    assert "note: output 'out.jpg': JPEG has no transparency" in result.stderr


# Refusals


@pytest.fixture
def bad(tmp_path):
    """Files that are no pictures or no weights, beside an output from before."""
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.jpg").write_bytes(CAT.read_bytes()[:9000])
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(weights.bundled_path().read_bytes()[:9999])
    Image.new("RGB", (40, 40), "red").save(tmp_path / "old.png")
    (tmp_path / "same.png").symlink_to("old.png")
    return {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


OUT = ("-o", "old.png")
JOB = ("stylize", CAT, INK, *OUT, *FOR_BOTH)

ERRORS = {  # what the line must say: the arguments
    "content 'none.jpg': cannot be opened": ("stylize", "none.jpg", INK, *JOB[3:]),
    "style 'none.jpg': cannot be opened": ("stylize", CAT, "none.jpg", *JOB[3:]),
    "content 'zero.jpg': not an image": ("stylize", "zero.jpg", INK, *JOB[3:]),
    "content 'text.png': not an image": ("stylize", "text.png", INK, *JOB[3:]),
    "content 'cut.jpg': cannot be decoded": ("stylize", "cut.jpg", INK, *JOB[3:]),
    "content 'folder.png': cannot be opened": ("stylize", "folder.png", INK, *JOB[3:]),
    "init 'nois': cannot be opened": (*JOB, "--init", "nois"),
    "output 'out.gif': unknown extension": (*JOB, "-o", "out.gif"),
    "output 'out': unknown extension": (*JOB, "-o", "out"),
    "there is no folder 'missing'": (*JOB, "-o", "missing/out.png"),
    "output 'folder.png': is a folder": (*JOB, "-o", "folder.png"),
    "output 'old.png' is also an input": ("stylize", "old.png", INK, *JOB[3:]),
    "output 'same.png' is also an input": ("texture", "old.png", "-o", "same.png"),
    "unknown layer 'relu6_1'": (*JOB, "--style-layers", "relu1_1,relu6_1"),
    "unknown layer 'conv3_4'": (*JOB, "--content-layers", "conv3_4:0.5"),
    "relu1_1 has weight -1.0": (*JOB, "--style-layers", "relu1_1:-1"),
    "3 style weights for 1 style image": (*JOB, "--style-weights", "1,2,3"),
    "none may be negative": (*JOB, "--style-weights", "-1"),
    "style_weight is -1.0": (*JOB, "--style-weight", "-1"),
    "content_weight is nan": (*JOB, "--content-weight", "nan"),
    "tv is inf": (*JOB, "--tv", "inf"),
    "are both 0": (*JOB, "--content-weight", "0", "--style-weight", "0"),
    "size is 0": (*JOB, "--size", "0"),
    "size is 8": (*JOB, "--size", "8"),
    "steps is -1": (*JOB, "--steps", "-1"),
    "seed is -3": (*JOB, "--seed", "-3"),
    "lr is Adam's": (*JOB, "--lr", "0.1"),
    "lr is 0.0": (*JOB, "--optimizer", "adam", "--lr", "0"),
    "bad.safetensors": (*JOB, "--weights", "bad.safetensors"),
    "none.h5: no such file": (*JOB, "--weights", "none.h5"),
    "text.png has an unknown format": (*JOB, "--weights", "text.png"),
    "holds VGG16, not VGG19": (*JOB, "--model", "vgg19", "--weights", weights.bundled_path()),
    "NST_JAX_OFFLINE is set, so VGG19 is not downloaded": (*JOB, "--model", "vgg19"),
    "trace 'missing/a.jsonl': not a file in a folder that can be written": (
        *JOB,
        "--trace",
        "missing/a.jsonl",
    ),
    "a texture has no size of its own": ("texture", INK, *OUT, *FOR_TEXTURE, "--size", "original"),
}


@pytest.mark.parametrize("message", ERRORS)
def test_an_error_is_one_line_and_touches_no_file(bad, message):
    assert message in error_line(*ERRORS[message])
    assert {path: path.read_bytes() for path in Path.cwd().iterdir() if path.is_file()} == bad


USAGE = {
    "Missing argument 'STYLE...'": ("stylize", CAT, *OUT),
    "Missing option '-o'": ("stylize", CAT, INK),
    "No such option": (*JOB, "--stile-weight", "1"),
    "No such command": ("stylise", CAT, INK),
    "'abc' is not a valid float": (*JOB, "--style-weight", "abc"),
    "'1.5' is not a valid integer": (*JOB, "--steps", "1.5"),
    "'orig' is not a valid integer": (*JOB, "--size", "orig"),
    "relu1_1 is named twice": (*JOB, "--style-layers", "relu1_1,relu1_1:2"),
    "'x' is not a number": (*JOB, "--style-layers", "relu1_1:x"),
    "'two' is not a number": (*JOB, "--style-weights", "1,two"),
    "'sgd' is not one of": (*JOB, "--optimizer", "sgd"),
    "'vgg11' is not one of": (*JOB, "--model", "vgg11"),
    "0 is not in the range": (*JOB, "--save-every", "0"),
    "--content-weight": ("texture", INK, *OUT, "--content-weight", "1"),
    "--style-layers": ("reconstruct", CAT, *OUT, "--style-layers", "relu1_1"),
}


@pytest.mark.parametrize("message", USAGE)
def test_a_usage_error_is_clicks_own(message):
    told = refused(*USAGE[message])
    assert message in told.replace("Error: no such", "Error: No such")
    assert told.startswith("Usage: ")
    assert not any(Path().iterdir())


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_outputs_are_refused():
    Image.new("RGB", (8, 8)).save("old.png")
    Path("old.png").chmod(0o444)
    assert "is read-only" in error_line(*JOB)
    Path("locked").mkdir(mode=0o555)
    assert "its folder is read-only" in error_line(*JOB, "-o", "locked/out.png")


def test_a_job_larger_than_the_memory_is_refused(bad, monkeypatch):
    monkeypatch.setattr(plan, "free_bytes", lambda: 2**20)
    assert "choose a smaller size" in error_line(*JOB)
    assert Path("old.png").read_bytes() == bad[Path.cwd() / "old.png"]


def test_divergence_saves_the_last_good_picture(bad):
    """A weight near the end of float32 overflows at once: the last good picture is the start."""
    changes = ("--style-layers", "relu1_1:1e30", "--style-weight", "1e30", "--trace", "trace.jsonl")
    saved, error = refused(*JOB, *changes).splitlines()
    assert saved == "old.png: the picture of step 0, the last good one"
    assert error.startswith("error: the loss stopped being a finite number")
    content = images.resize(images.read(CAT).pixels, (43, 64))
    assert np.abs(images.read("old.png").pixels - content).max() <= 0.5 / 255 + 1e-6
    assert settings_of("old.png")["steps_done"] == 0
    assert not Path("trace.jsonl").exists()


# Files in each other's way


def test_a_trace_onto_an_input_is_refused(photos):
    Image.fromarray(photos["coffee"][:90, :90]).save("style.png")
    before = Path("style.png").read_bytes()
    result = call("stylize", CAT, "style.png", *FOR_BOTH, "-o", "out.png", "--trace", "style.png")
    assert result.exit_code == 2
    assert Path("style.png").read_bytes() == before


def test_a_trace_onto_the_output_is_refused():
    assert call(*JOB, "--trace", "old.png").exit_code == 2


def test_an_older_trace_stays_when_the_job_cannot_start(bad):
    Path("trace.jsonl").write_text("kept")
    error_line("stylize", "none.jpg", INK, *OUT, *FOR_BOTH, "--trace", "trace.jsonl")
    assert Path("trace.jsonl").read_text() == "kept"


def test_an_output_onto_the_start_picture_is_refused(bad):
    error_line(*JOB, "--init", "old.png")


def test_names_that_are_too_long_are_refused():
    error_line(*JOB, "-o", "x" * 300 + ".png")


def test_a_preview_onto_an_input_is_refused(photos, bad):
    Image.fromarray(photos["coffee"][:90, :90]).save("old-000002.png")
    error_line("stylize", "old-000002.png", INK, *OUT, *FOR_BOTH, "--save-every", "2")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_trace_does_not_cost_the_picture():
    result = call("stylize", CAT, INK, "-o", "out.png", *FOR_BOTH, "--trace", "/dev/full")
    assert result.exit_code == 0, result.output
    assert Path("out.png").exists()
    assert result.stderr.count("ends here") == 1
