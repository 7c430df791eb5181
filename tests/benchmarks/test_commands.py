"""The scripts that measure whole commands."""

import before_after
import cli_latency
import commands
import job_sizes
import pytest
from click.testing import CliRunner


def test_a_command_is_measured_and_its_failure_reported(tmp_path):
    usage = commands.run("weights", "list", cache=tmp_path)
    assert 0.1 < usage.seconds < 100
    assert 2**25 < usage.peak_bytes < 2**32
    with pytest.raises(SystemExit, match=r"nst-jax stylize failed: .*missing.jpg"):
        commands.run("stylize", "missing.jpg", commands.STYLE, "-o", tmp_path / "out.png")


@pytest.mark.extended
def test_the_first_step_is_seen_in_the_progress_bar(tmp_path):
    words = ["stylize", commands.CONTENT, commands.STYLE, "-o", tmp_path / "out.png"]
    words += ["--size", "32", "--steps", "500", "--optimizer", "adam", "--model", "vgg16"]
    assert 0.5 < commands.first_step(*words) < 300
    assert not (tmp_path / "out.png").exists()


@pytest.fixture
def fake_commands(monkeypatch):
    """Commands of 1 second and 0.5 a step and 1 GiB; in the checkout ``new`` twice as much."""
    started, done = [], {}

    def run(*words, checkout=commands.ROOT, cache=None):
        started.append(words)
        steps = words[words.index("--steps") + 1] if "--steps" in words else "4"
        done.update(count=sum(map(int, steps.split(","))), factor=1 + (checkout.name == "new"))
        return commands.Usage(1 + 0.5 * done["count"], done["factor"] * 2**30)

    def metadata(path):
        seconds = {"steps_seconds": 0.5 * done["factor"] * done["count"], "seconds": 99.0}
        settings = dict.fromkeys(("model", "optimizer", "dtype", "device"), "x")
        return {"steps_done": done["count"], **seconds, **settings}

    for module in (before_after, cli_latency, job_sizes):
        monkeypatch.setattr(module, "run", run)
        monkeypatch.setattr(module, "metadata", metadata, raising=False)
        monkeypatch.setattr(module, "first_step", lambda *words, **options: 4.0, raising=False)
    return started


def report_of(command, *words):
    """Run a script; return the cells of its table without the head."""
    output = CliRunner().invoke(command, words, catch_exceptions=False).stdout
    lines = [line for line in output.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_job_sizes_has_a_row_for_each_size(fake_commands):
    report = report_of(job_sizes.main, "--sizes", "256,512")
    assert report == [[size, "gram", "4", "3", "1.00"] for size in ("256", "512")]
    assert [("--steps" in words) for words in fake_commands] == [True, False] * 2


def test_before_after_has_medians_and_ratios(fake_commands, tmp_path):
    checkouts = [tmp_path / "old", tmp_path / "new"]
    for path in checkouts:
        path.mkdir()
    words = ["--sizes", "256", "--optimizers", "adam", "--rounds", "2"]
    assert report_of(before_after.main, *map(str, checkouts), *words) == [
        ["first step, seconds, empty cache, 256 pixels", "4", "4", "1.00"],
        ["first step, seconds, warm cache, 256 pixels", "4", "4", "1.00"],
        ["peak MiB, empty cache, adam, 256 pixels", "1024", "2048", "2.00"],
        ["peak MiB, warm cache, adam, 256 pixels", "1024", "2048", "2.00"],
        ["seconds a step, adam, 256 pixels", "0.5", "1", "2.00"],
        ["setup seconds, empty cache, adam, 256 pixels", "98", "97", "0.99"],
        ["setup seconds, warm cache, adam, 256 pixels", "98", "97", "0.99"],
    ]
    assert [words[-1] for words in fake_commands[:3]] == ["0,0,2", "0,0,2", "0,0,20"]


def test_cli_latency_compares_one_command_with_many(fake_commands):
    report = report_of(cli_latency.main, "many-styles", "--styles", "3", "--steps", "6")
    assert report == [["3 commands", "12", "1.00"], ["one batch command", "4", "0.33"]]
    names = [words[0] for words in fake_commands]
    assert names == [*["stylize"] * 3, "batch", *["stylize"] * 3, "batch"]
    assert fake_commands[-1].count("--styles") == 3


def test_cli_latency_shows_all_rounds(fake_commands):
    report = report_of(cli_latency.main, "first-step", "--rounds", "2")
    assert report == [["empty cache", "4", "4, 4"], ["warm cache", "4", "4, 4"]]
