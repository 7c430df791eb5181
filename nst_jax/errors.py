"""The two ways in which a job ends without a picture that was asked for."""

from typing import Any

__all__ = ["DivergedError", "InputError", "TooLargeError"]


class InputError(ValueError):
    """Bad input: a file, an option or an array that the job cannot be done with.

    The message is one line that names what was given, what is allowed and what to do next. The
    command line prints it without a traceback and exits with code 2.
    """


class TooLargeError(InputError):
    """The computation needs more memory than the device has."""


class DivergedError(ArithmeticError):
    """The loss or the picture stopped being finite.

    Attributes:
        image: the last picture that was seen to be finite, at the end of a chunk, in [0, 1].
        step: the number of steps behind that picture.
        history: the losses up to it, as `nst_jax.optimize.loop.minimise` returns them.
        result: the picture as a `nst_jax.Result`, where `nst_jax.stylize` raised it. Of several
            pictures that ran side by side, image, history and result hold one each.
    """

    result: Any = None

    def __init__(self, message: str, *, image: Any, step: int, history: list[Any]) -> None:
        super().__init__(message)
        self.image = image
        self.step = step
        self.history = history
