"""A file is written completely or not at all."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from nst_jax.files import atomic_path, file_hash, write_atomically


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    return path


def test_a_file_is_created_and_replaced(path):
    new = path.with_name("new.bin")
    write_atomically(new, b"first")
    assert new.read_bytes() == b"first"
    write_atomically(str(path), memoryview(b"second"))
    assert path.read_bytes() == b"second"
    assert {p.name for p in path.parent.iterdir()} == {"file.bin", "new.bin"}


def test_a_new_file_has_the_usual_permissions(path):
    new = path.with_name("new.bin")
    write_atomically(new, b"")
    assert new.stat().st_mode == path.stat().st_mode


def test_a_symbolic_link_stays_and_its_target_is_replaced(path):
    folder = path.parent / "folder"
    folder.mkdir()
    link = folder / "link.bin"
    link.symlink_to(path)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert list(folder.iterdir()) == [link]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failure_keeps_the_old_file_and_leaves_no_temporary_file(path, monkeypatch, step, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(step, fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_the_data_are_synced_before_the_rename(path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    monkeypatch.setattr(Path, "replace", lambda self, target: calls.append("replace"))
    write_atomically(path, b"new")
    assert calls == ["fsync", "replace"]


def test_a_library_can_write_to_a_temporary_path(path):
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert not temporary.exists()


def write_half(temporary):
    temporary.write_bytes(b"half")
    raise ValueError("broken")


@pytest.mark.parametrize(
    ("writer", "error"), [(write_half, ValueError), (lambda temporary: None, FileNotFoundError)]
)
def test_a_writer_that_fails_or_writes_nothing_keeps_the_old_file(path, writer, error):
    with pytest.raises(error), atomic_path(path) as temporary:
        writer(temporary)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_the_hash_is_that_of_the_content(path, algorithm):
    assert file_hash(path, algorithm) == hashlib.new(algorithm, b"old").hexdigest()
