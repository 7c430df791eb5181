"""Files that are written completely or not at all, hashes of files, and JSON from files."""

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "file_hash", "parse_json", "why_not_writable", "write_atomically"]


def write_atomically(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write ``data`` to ``path``; an existing file stays until the new one is complete.

    Raises:
        OSError: the file cannot be written. The existing file is unchanged.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces ``path`` when the block succeeds.

    For libraries that write to a path. The temporary file is in the folder of ``path``, because a
    rename is atomic only within one file system. Its name ends in ``.part``, whatever the extension
    of ``path``. If ``path`` is a symbolic link, the file that it points to is replaced. If the
    block raises, the temporary file is removed and an existing file is unchanged.

    Raises:
        OSError: the file cannot be written, or the block did not create the temporary file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        with suppress(OSError):  # after a success the temporary file no longer exists
            temporary.unlink()


def why_not_writable(path: str | os.PathLike[str]) -> str | None:
    """Say why `atomic_path` cannot or must not write this file and what to do, or return None.

    A rename would replace a pipe, a device or a read-only file without an error.
    """
    target = Path(path)
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            return "is a folder; give a file name"
        if not stat.S_ISREG(mode):
            return "is a pipe or device; give a file name"
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a loop of links, a name that is too long or has zeros
        return f"cannot be written: {getattr(error, 'strerror', error)}; choose another name"
    if not target.parent.is_dir():
        return f"there is no folder {str(target.parent)!r}; create it first"
    if not os.access(target.parent, os.W_OK):
        return "its folder is read-only; choose another or allow writing"
    if target.exists() and not os.access(target, os.W_OK):
        return "is read-only; choose another name or allow writing"
    return None


def file_hash(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """Return the hash of a file in hexadecimal.

    Args:
        path: the file.
        algorithm: a name that `hashlib.new` accepts.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def parse_json(text: Any) -> Any:
    """Parse JSON that a file holds.

    Raises:
        ValueError: it is no text, no JSON, or nested too deep for Python's parser.
    """
    try:
        return json.loads(text)
    except (RecursionError, TypeError) as error:
        raise ValueError(f"no JSON: {error}") from error
