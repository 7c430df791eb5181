"""`resolve` and `fetch` against a server on this machine."""

import hashlib
import http.server
import logging
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import weight_files as wf

from nst_jax.errors import InputError
from nst_jax.models.weights import load as weights
from nst_jax.models.weights import registry as origins
from nst_jax.models.weights.load import fetch, load, resolve, save


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / "vgg19.h5"
    wf.write_sparse_keras(path, "vgg19")
    return path.read_bytes()


@pytest.fixture
def server(keras_file, monkeypatch):
    """Serve the file well at /good, and badly in several ways; count the requests."""
    requests = []
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.path == "/missing":
                self.send_error(404)
                return
            if self.path == "/silent":
                done.wait(10)
                return
            body = b"not it" if self.path == "/wrong" else keras_file
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{httpd.server_port}", requests=requests)
        done.set()
        httpd.shutdown()


@pytest.fixture
def cache(tmp_path, keras_file, monkeypatch):
    """An empty cache, and the test file's hash in place of the published one's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NST_JAX_CACHE", str(folder))
    monkeypatch.delenv("NST_JAX_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "_failed_downloads", {})
    return folder


@pytest.fixture
def md5(keras_file):
    return hashlib.md5(keras_file).hexdigest()


def test_fetch_converts_into_the_cache(server, cache, md5, keras_file, capfd):
    path = fetch(url=f"{server.url}/good", md5=md5)
    assert path == cache / "vgg19.safetensors" == weights.cached_path()
    assert list(cache.iterdir()) == [path]
    found = load(path)
    assert found.model == "vgg19"
    assert found.params["conv5_4"]["bias"][0] == pytest.approx(0.01)
    assert hashlib.sha256(keras_file).hexdigest().encode() in path.read_bytes()[:1000]
    assert resolve("vgg19").path == resolve("auto").path == path
    assert capfd.readouterr() == ("", "")


def test_a_sound_file_is_not_fetched_again_and_a_damaged_one_is(server, cache, md5):
    url = f"{server.url}/good"
    path = fetch(url=url, md5=md5)
    fetch(url=url, md5=md5)
    assert len(server.requests) == 1
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        resolve("auto")
    fetch(url=url, md5=md5)
    assert len(server.requests) == 2
    assert resolve("auto").model == "vgg19"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/wrong", "MD5 expected {md5}, got 8c1f"),
        ("/cut", "cannot be downloaded"),
        ("/missing", "404 Not Found"),
    ],
)
def test_a_bad_download_leaves_nothing(path, words, server, cache, md5):
    words = words.format(md5=md5).replace("8c1f", hashlib.md5(b"not it").hexdigest())
    with pytest.raises(InputError, match=words) as caught:
        fetch(url=server.url + path, md5=md5)
    message = str(caught.value)
    assert server.url + path in message
    assert origins.VGG19_URL in message
    assert f"nst-jax weights convert {origins.VGG19_FILE} {cache}" in message
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_nobody_listens(cache):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch(url=f"http://127.0.0.1:{port}/vgg19.h5")
    assert time.monotonic() - start < 5


def test_a_silent_server_is_given_up(server, cache, monkeypatch):
    monkeypatch.setattr(weights, "READ_TIMEOUT", 0.2)
    with pytest.raises(InputError, match="ReadTimeout"):
        fetch(url=f"{server.url}/silent")


@pytest.mark.parametrize("url", ["file:///etc/hosts", "vgg19.h5", "http://"])
def test_urls_that_are_none(url, cache):
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch(url=url)


def test_a_cache_that_cannot_be_made(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("NST_JAX_OFFLINE", raising=False)
    with pytest.raises(InputError, match=r"cannot be written .*set NST_JAX_CACHE"):
        fetch(url=f"{server.url}/good")
    assert server.requests == []


def test_auto_falls_back_in_one_visible_line_and_tries_once(server, cache, monkeypatch, caplog):
    monkeypatch.setenv("NST_JAX_VGG19_URL", f"{server.url}/missing")
    with caplog.at_level(logging.WARNING, logger="nst_jax"):
        assert resolve().path == weights.bundled_path()
    (record,) = caplog.records
    line = record.getMessage()
    assert (record.name, record.levelname) == ("nst_jax", "WARNING")
    assert "bundled VGG16 instead of VGG19" in line
    assert "nst-jax weights convert" in line
    assert "\n" not in line
    assert resolve().model == "vgg16"
    with pytest.raises(InputError, match="404 Not Found"):
        resolve("vgg19")
    assert server.requests == ["/missing"]
    # Asked for outright, it is tried again.
    with pytest.raises(InputError, match="404 Not Found"):
        fetch()
    assert len(server.requests) == 2


def test_offline_never_asks_the_network(server, cache, monkeypatch, caplog):
    monkeypatch.setenv("NST_JAX_VGG19_URL", f"{server.url}/good")
    monkeypatch.setenv("NST_JAX_OFFLINE", "1")
    assert resolve().model == "vgg16"
    assert "NST_JAX_OFFLINE is set" in caplog.text
    for get in (fetch, lambda: resolve("vgg19")):
        with pytest.raises(InputError, match=r"NST_JAX_OFFLINE is set.*by hand: get https://"):
            get()
    assert server.requests == []


def test_vgg16_and_a_path_need_no_network(server, cache, monkeypatch, tmp_path, keras_file):
    monkeypatch.setenv("NST_JAX_VGG19_URL", f"{server.url}/good")
    assert resolve("vgg16").path == weights.bundled_path()
    path = tmp_path / "mine.h5"
    path.write_bytes(keras_file)
    assert resolve("auto", path).model == resolve("vgg19", str(path)).model == "vgg19"
    with pytest.raises(InputError, match=r"mine\.h5 holds VGG19, not VGG16; leave --model out"):
        resolve("vgg16", path)
    with pytest.raises(InputError, match="preprocessing, not torchvision"):
        resolve("auto", path, preprocessing="torchvision")
    assert server.requests == []


def test_wrong_models(cache):
    with pytest.raises(InputError, match="'vgg11'; choose auto, vgg19 or vgg16"):
        resolve("vgg11")
    with pytest.raises(InputError, match="'vgg16'; only vgg19 is downloaded"):
        fetch("vgg16")
    cache.mkdir()
    save(weights.cached_path(), load(weights.bundled_path()), dtype="float16")
    with pytest.raises(InputError, match=r"vgg19\.safetensors holds VGG16; put VGG19 there"):
        resolve("auto")
