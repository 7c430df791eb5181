"""A server that stalls, lies, cuts short or is not there: one line, and no half file."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from apps.helpers import call
from reliability.bad_server import Handler, download_module
from reliability.faults import fail_with, one_error_line

from nst_jax.errors import InputError
from nst_jax.files import file_hash
from nst_jax.networks import weights
from nst_jax.networks.weights import load

pytestmark = pytest.mark.usefixtures("weight_cache")


REASONS = {
    "slow-start": "ReadTimeout",
    "stall": "ConnectionError",
    "truncated": "ChunkedEncodingError",
    "length-too-long": "ChunkedEncodingError",
    "wrong-bytes": "MD5 expected",
    "empty": "MD5 expected",
    "web-page": "MD5 expected",
    "loop": "TooManyRedirects",
    "to-file": "InvalidSchema",
    "reset": "ChunkedEncodingError",
    "404": "404 Not Found",
    "500": "500 Internal Server Error",
}


@pytest.mark.parametrize("path", REASONS)
def test_a_server_that_does_not_send_the_file_leaves_none(path, server, weight_cache, monkeypatch):
    monkeypatch.setattr(download_module, "VGG19_MD5", server.md5)
    ended = call("weights", "fetch", "vgg19", "--url", f"{server.url}/{path}")
    assert ended.exit_code == 2, (ended.output, ended.exception)
    line = one_error_line(ended)
    assert REASONS[path] in line
    assert f"{server.url}/{path}" in line
    assert "by hand: get https://" in line
    assert list(weight_cache.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/vgg19.h5",
        "http://name-that-does-not-resolve.invalid/vgg19.h5",
        "http://[::1/vgg19.h5",
        "file:///etc/hosts",
    ],
)
def test_an_address_that_nobody_answers_leaves_no_file(url, weight_cache):
    ended = call("weights", "fetch", "vgg19", "--url", url)
    assert ended.exit_code == 2, (ended.output, ended.exception)
    assert f"VGG19 cannot be downloaded from {url} (" in one_error_line(ended)
    assert list(weight_cache.iterdir()) == []


def test_a_server_without_tls_leaves_no_file(server, weight_cache):
    url = f"{server.url.replace('http', 'https')}/good"
    ended = call("weights", "fetch", "vgg19", "--url", url)
    assert ended.exit_code == 2
    assert "SSLError" in one_error_line(ended)
    assert list(weight_cache.iterdir()) == []


def test_another_host_may_send_the_file(server, weight_cache):
    path = weights.download(url=f"{server.url}/to-other-host", md5=server.md5)
    assert list(weight_cache.iterdir()) == [path]
    assert load(path).model == "vgg19"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda signum: signum.name)
def test_a_signal_during_a_download_leaves_no_file(signum, server, weight_cache, monkeypatch):
    monkeypatch.setattr(Handler, "signum", signum)
    monkeypatch.setattr(download_module, "READ_TIMEOUT", 10)
    ended = call("weights", "fetch", "vgg19", "--url", f"{server.url}/signal")
    assert ended.exit_code == 130
    assert ended.stderr.endswith("Aborted!\n")
    assert list(weight_cache.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=lambda n: errno.errorcode[n])
@pytest.mark.parametrize("name", ["Path.mkdir", "write_atomically", "tempfile.mkdtemp"])
def test_a_cache_that_cannot_be_written_is_named(name, number, server, weight_cache, monkeypatch):
    targets = {
        "Path.mkdir": "pathlib.Path.mkdir",
        "write_atomically": "nst_jax.networks.weights.safetensors.write_atomically",
        "tempfile.mkdtemp": "tempfile.mkdtemp",
    }
    with monkeypatch.context() as patch:
        patch.setattr(targets[name], fail_with(number))
        with pytest.raises(InputError) as caught:
            weights.download(url=f"{server.url}/good", md5=server.md5)
    message = str(caught.value)
    assert f"cannot be written ({os.strerror(number)})" in message
    assert str(weight_cache) in message
    assert "\n" not in message
    assert not weight_cache.exists() or list(weight_cache.iterdir()) == []


def test_two_processes_that_download_at_once_leave_one_whole_file(server, weight_cache):
    code = (
        "from nst_jax.files import file_hash; from nst_jax.networks import weights;"
        f"print(file_hash(weights.download(url={server.url + '/both'!r}, md5={server.md5!r})))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    hashes = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (path,) = weight_cache.iterdir()
    assert hashes == {file_hash(path)}
    assert load(path).model == "vgg19"
