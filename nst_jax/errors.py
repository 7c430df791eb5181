"""The errors that a job reports to its user."""

from typing import Any, Final

__all__ = [
    "DivergedError",
    "InputError",
    "MemoryLimitError",
    "OutOfMemoryError",
    "escape",
    "is_out_of_memory",
    "short_repr",
]

MEMORY_SIGNS: Final = (
    "RESOURCE_EXHAUSTED",
    "Failed to determine best cudnn convolution algorithm",  # None of them fits.
)
MAX_REPR: Final = 200  # characters of a value in a message


def escape(text: str) -> str:
    r"""Return a text on one line, with characters that a terminal would obey as escapes.

    A file may be named with line ends, with the codes that color and move text, or with bytes that
    are no text, which Python holds as lone surrogates and cannot print.

    >>> print(escape("a\nb \x1b[31m é \udcff"))
    a\nb \x1b[31m é \udcff
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short_repr(value: Any) -> str:
    """Return a value as a message shows it: the beginning, if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}…"


class InputError(ValueError):
    """The user gave a file, an option or an array that the job cannot use.

    The message is one line. It names what was given, what is allowed and what to do next. The
    command line prints it without a traceback and exits with code 2. Line ends and other control
    characters in it, which names of files may have, become escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escape(message))


class MemoryLimitError(InputError):
    """The computation needs more memory than the device has or than the user allows."""


class _StepError(Exception):
    """The base of errors during the optimization; carries the last finite image."""

    def __init__(
        self, message: str, *, image: Any, step: int, history: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.image = image
        self.step = step
        self.history = history or {}
        self.results: list[Any] = []


class DivergedError(_StepError, ArithmeticError):
    """The loss or the image stopped being finite.

    Attributes:
        image: the last finite image, in [0, 1]; ``(k, h, w, 3)`` when k images ran in one batch.
        step: the number of steps behind that image.
        history: the losses up to that step (`nst_jax.optimize.History`).
        results: the last finite images as `nst_jax.Result`, one an image, when a pipeline function
            raised the error; otherwise empty.
    """


class OutOfMemoryError(_StepError, MemoryLimitError):
    """The device ran out of memory while steps ran, because something else took it.

    Attributes:
        image: as in `DivergedError`.
        step: as in `DivergedError`.
        history: as in `DivergedError`.
        results: as in `DivergedError`.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python or of XLA says that there is not enough memory.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: 9 GiB"))
    (True, True)
    """
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in MEMORY_SIGNS)
