"""Each option of each command with values that nobody means."""

import sys
from types import ModuleType

import click
import pytest
from apps.helpers import SMALL, WITHOUT_CONTENT, WITHOUT_STYLE
from reliability.hostile import assert_clear, attempt

from nst_jax.apps.cli.main import main

pytestmark = pytest.mark.usefixtures("stops_at_start", "no_server")

COMMANDS = {  # a valid command line of each command
    "stylize": ("content.png", "style.png", *SMALL, "-o", "out.png"),
    "texture": ("style.png", *WITHOUT_CONTENT, "-o", "out.png"),
    "reconstruct": ("content.png", *WITHOUT_STYLE, "-o", "out.png"),
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


@pytest.mark.parametrize("value", VALUES, ids=lambda v: ascii(v)[:20])
@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda v: v)
def test_an_option_takes_a_value_or_refuses_it_in_one_line(command, option, value):
    assert_clear(attempt(*command.split(), *COMMANDS[command], option, value))
