"""Run the command line on bad input, and judge how it ends.

A command ends well in two ways. It succeeds, or it says in one line what is wrong and exits with
code 2. In this process a command may also stop where its optimization would start, because all
input has been checked by then.
"""

import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from apps.helpers import call

from nst_jax import InputError

STARTED = "started"
MAX_LINE = 6_000  # It may repeat a value of 5000 characters, but not the megabytes of a file.
ERROR_LINE = re.compile(r"error: |Error: ")
OTHER_LINES = re.compile(r"$|note: |Usage: |Try '|\S+: the image of step \d+, the last finite one$")


class Started(BaseException):
    """Raised in place of the optimization. No handler of the program catches it."""


class Hung(BaseException):
    """Raised when a command takes too long."""


class Outcome(NamedTuple):
    """How a command ended."""

    code: int | str
    stdout: str
    stderr: str


@contextmanager
def time_limit(seconds):
    def give_up(*arguments):
        raise Hung

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def memory_limit(num_bytes):
    """Let this process take only so many bytes of address space more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(*arguments):
    """Run a command in this process."""
    warned = []
    try:
        with time_limit(60), warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = lambda *warning: warned.append(f"{warning[1]}: {warning[0]}\n")
            result = call(*arguments)
    except Started:
        return Outcome(STARTED, "", "".join(warned))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, "".join([*warned, result.stderr]))


def attempt_apart(*arguments, memory=None, timeout=60, **environment):
    """Run a command in a process of its own, which may use so many bytes of address space."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))\n"
    program = f"{limit if memory else ''}from nst_jax.apps.cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program, *map(os.fsencode, map(str, arguments))],
        capture_output=True,
        timeout=timeout,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdin=subprocess.DEVNULL,
    )
    return Outcome(
        result.returncode,
        result.stdout.decode(errors="replace"),
        result.stderr.decode(errors="replace"),
    )


def complaint(outcome):
    """Say why an outcome is not a good one; return None for a good one."""
    if outcome.code == STARTED:
        return f"a warning: {outcome.stderr!r}" if outcome.stderr else None
    if outcome.code not in (0, 2):
        return f"exit code {outcome.code}: {outcome.stderr[-300:]!r}"
    if "Traceback" in outcome.stdout + outcome.stderr:
        return f"a traceback: {outcome.stderr[-300:]!r}"
    lines = outcome.stderr.split("\n")
    if lines[-1]:
        return "the last line has no end"
    errors = [line for line in lines if ERROR_LINE.match(line)]
    if len(errors) != (outcome.code == 2):
        return f"{len(errors)} error lines with exit code {outcome.code}: {outcome.stderr!r}"
    for line in [*lines, *outcome.stdout.split("\n")]:
        if not line.isprintable():
            return f"control characters in {line!r}"
    for line in lines:
        if not (ERROR_LINE.match(line) or OTHER_LINES.match(line)):
            return f"a line of another kind: {line!r}"
        if len(line) > MAX_LINE:
            return f"a line of {len(line)} characters: {line[:100]!r}"
    return None


def assert_clear(outcome):
    """Assert that a command ended well; return its error line, or an empty text."""
    assert complaint(outcome) is None, complaint(outcome)
    return outcome.stderr.strip().split("\n")[-1] if outcome.code == 2 else ""


def assert_each(check, rows):
    """Check each row of a table in one test, which costs less than a test a row; report all that
    fail."""
    failures = {}
    for row in rows:
        try:
            check(row)
        except Exception as error:
            failures[ascii(row)[:60]] = f"{type(error).__name__}: {str(error)[:300]}"
    assert not failures


def rarely(rows, often=()):
    """Return the rows of a table; those that are not among ``often`` run in a campaign only."""
    marks = pytest.mark.campaign
    return [row if row in often else pytest.param(row, marks=marks) for row in rows]


def refusal(function, *arguments, **options):
    """Call a function of the package; return the line with which it refuses, or None if it does
    not. Every other exception is an error of the package."""
    try:
        with time_limit(60):
            function(*arguments, **options)
    except Started:
        return None
    except InputError as error:
        line = str(error)
        assert line.isprintable(), f"no single line: {line!r}"
        assert len(line) < MAX_LINE, f"a line of {len(line)} characters: {line[:100]!r}"
        return line
    return None
