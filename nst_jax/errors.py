"""The one exception for what a user can put right."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input: a file, an option or an array that the job cannot be done with.

    The message is one line that names what was given, what is allowed and what to do next. The
    command line prints it without a traceback and exits with code 2.
    """
