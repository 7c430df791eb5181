"""Each option of each command with values that nobody means."""

import sys
from types import ModuleType

import click
import pytest
from apps.helpers import SMALL, WITHOUT_CONTENT, WITHOUT_STYLE
from reliability.hostile import STARTED, assert_clear, assert_each, attempt, memory_limit

from nst_jax.apps.cli.main import main

pytestmark = pytest.mark.usefixtures("stops_at_start", "no_server")

GIB = 2**30

COMMANDS = {  # a valid command line of each command
    "stylize": ("content.png", "style.png", *SMALL, "-o", "out.png"),
    "texture": ("style.png", *WITHOUT_CONTENT, "-o", "out.png"),
    "reconstruct": ("content.png", *WITHOUT_STYLE, "-o", "out.png"),
    "apply": ("content.png", "--style", "style.png", "-o", "out.png"),
    "batch": ("content.png", "--styles", "style.png", *SMALL, "-o", "made"),
    "interpolate": ("content.png", "style.png", "other.png", *SMALL, "-o", "out.png"),
    "plot": ("content.png", "-o", "plot.svg"),
    "studio": (),
    "doctor": ("--no-such-option",),
    "weights list": (),
    "weights fetch": ("vgg19",),
    "weights convert": ("content.png", "out.safetensors"),
    "weights verify": ("content.png",),
}
VALUES = (
    *("0", "-1", "-0", "nan", "inf", "-inf", "1e30", "1e-320", "1e400", "99999999999999999999"),
    *("", " ", "abc", "1,2,3", ",", "0x10", "１２", "1_000", "+5", "٣", "9" * 5000),
    *("1:1", "a:b", ":", "None", "true", "..", "a\nb", "\x1b[31mred", "%s%n", "é\u202e\u2028"),
)


def leaves(command, *path):
    """Return the commands below a command, with their names."""
    children = getattr(command, "commands", {})
    if not children:
        return [(" ".join(path), command)]
    return [leaf for name, child in children.items() for leaf in leaves(child, *path, name)]


OPTIONS = [
    (name, param.opts[0])
    for name, command in leaves(main)
    for param in command.params
    if isinstance(param, click.Option) and not param.is_flag
]
OFTEN = [  # An option that several commands share is tried with one of them.
    (name, option)
    for name, option in OPTIONS
    if name == "stylize" or ("stylize", option) not in OPTIONS
]
ROWS = [row if row in OFTEN else pytest.param(*row, marks=pytest.mark.campaign) for row in OPTIONS]


@pytest.fixture(scope="module")
def no_server():
    """Replace the studio's server, whose import is slow."""
    server = ModuleType("server")
    server.serve = lambda host, port, limit: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nst_jax.apps.studio.server", server)
        yield


def test_each_command_has_a_valid_command_line():
    assert set(COMMANDS) == {name for name, _ in leaves(main)}


@pytest.mark.parametrize(("command", "option"), ROWS, ids=lambda v: v)
def test_an_option_takes_each_value_or_refuses_it_in_one_line(command, option):
    line = (*command.split(), *COMMANDS[command], option)
    assert_each(lambda value: assert_clear(attempt(*line, value)), VALUES)


@pytest.mark.parametrize("size", ["65536", "131072"])
@pytest.mark.parametrize("command", ["stylize", "texture", "reconstruct", "interpolate", "batch"])
def test_a_size_that_cannot_be_held_is_refused_before_it_is_made(command, size):
    with memory_limit(GIB):
        line = assert_clear(attempt(command, *COMMANDS[command], "--size", size))
    assert "choose a smaller size" in line
    assert f"{size}x" in line


WORDS = (  # words in place of or behind the arguments of a command
    *(
        (),
        ("",),
        (" ",),
        ("--",),
        ("-",),
        ("--nothing",),
        ("--nothing\nx",),
        ("-z",),
        ("-\x1b[31m",),
    ),
    *(("a\nb",), ("content.png",) * 3, ("content.png",) * 300, ("--size",), ("-o",), ("-qq",)),
    *(("--size=16", "--size=17"), ("--size", "-o"), ("--help=1",), ("--quiet=yes",), ("@args",)),
    *(("-o", "a.png", "-o", "b.png"), ("\udcff",), ("--\udcff",), ("--=",), ("--s", "5")),
)


@pytest.mark.parametrize("command", [*COMMANDS, "", "weights", "nothing", "a\nb", "\x1b[31m"])
def test_words_that_no_command_takes_are_refused_in_one_line(command, monkeypatch):
    monkeypatch.setattr(main.commands["doctor"], "callback", lambda: None)
    first = command.split(" ") if command else []

    def check(words):
        if words or command not in ("", "weights"):  # These show their help.
            assert_clear(attempt(*first, *words))
            assert_clear(attempt(*first, *COMMANDS.get(command, ()), *words))

    assert_each(check, WORDS)


COMBINATIONS = (  # options that exclude each other or need each other, for stylize
    *("--learning-rate 0.1", "--optimizer lbfgs --learning-rate 0.1", "--ema-decay 0.5"),
    *("--optimizer adam --ema-decay 1", "--mask-colors red", "--mask content.png"),
    *("--mask content.png --mask content.png --mask-colors red", "--style-weights 1,2"),
    *("--style-weights 0", "--style-scales 1,1", "--steps 1,2,3,4,5,6,7,8,9", "--model vgg19"),
    *("--num-processes 2", "--process-id 0", "--coordinator a:1", "--coordinator a --process-id 0"),
    *("--coordinator a --num-processes 2 --process-id 2", "--resume", "--devices 99"),
    *("--content-weight 0 --style-weight 0", "--content-weight 0 --init content --steps 0"),
    *("--style-layers relu1_1:0", "--content-layers relu9_9", "--style-layers relu5_4"),
    *("--style-layers relu1_1,relu1_1", "--style-layers relu1_1:", "--style-layers :1"),
    *("--style-loss gram,gram", "--style-loss gram:0,sliced:0", "--style-loss gram:nan"),
    *("--style-loss gram,", "--style-loss sliced --optimizer lbfgs", "--size 16 --min-size 99999"),
    *("--weights content.png --model vgg16", "--memory-limit 1kB", "--memory-limit 1MB"),
    *("--size original --min-size none", "--init other.png --preset paper", "--batch-size 2"),
    *("--color-mode luminance --style-weight 0", "--color-mode histogram --content-weight 0"),
)


@pytest.mark.parametrize("line", COMBINATIONS)
def test_options_that_do_not_fit_each_other_are_refused_in_one_line(line):
    assert_clear(attempt("stylize", *COMMANDS["stylize"], *line.split()))


ENVIRONMENT = (  # of the variables by which a launcher says which share is ours
    *({"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": size}
      for rank, size in [("a", "b"), ("", ""), ("-1", "2"), ("2", "2"), ("0", "0"), ("5", "2"),
                         ("0", "-3"), ("1e3", "2"), ("9" * 5000, "2"), ("0", "x")]),
    *({"OMPI_COMM_WORLD_RANK": "x", "OMPI_COMM_WORLD_SIZE": "2"},
      {"PMI_RANK": "0", "PMI_SIZE": ""}),
)  # fmt: skip


@pytest.mark.parametrize("variables", ENVIRONMENT, ids=lambda v: ascii(list(v.items()))[:40])
def test_a_launcher_that_gives_no_numbers_is_refused_in_one_line(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    outcome = attempt("batch", *COMMANDS["batch"])
    assert_clear(outcome)
    assert outcome.code == 2


@pytest.mark.parametrize(
    "shard", ["0/2", "3/2", "1/0", "1/", "/2", "a/b", "-1/2", "1/2/3", "1.5/2"]
)
def test_a_share_that_there_is_not_is_refused_in_one_line(shard):
    assert attempt("batch", *COMMANDS["batch"], "--shard", shard).code == 2


def test_a_share_of_many_digits_is_refused_in_one_line():
    for shard in (f"1/{'9' * 5000}", f"{'9' * 5000}/2"):
        assert_clear(attempt("batch", *COMMANDS["batch"], "--shard", shard))


def test_the_valid_command_lines_start():
    for command in ("stylize", "texture", "reconstruct", "batch", "interpolate"):
        assert attempt(command, *COMMANDS[command]).code == STARTED
