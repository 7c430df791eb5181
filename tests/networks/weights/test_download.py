"""`load_pretrained` and `download` with a server on this machine."""

import hashlib
import http.server
import importlib
import threading
from types import SimpleNamespace

import pytest

from nst_jax.errors import InputError
from nst_jax.networks.weights import (
    bundled_path,
    download,
    load,
    load_pretrained,
    save,
    vgg19_cache_path,
)

pretrained_module = importlib.import_module("nst_jax.networks.weights.pretrained")


@pytest.fixture
def server(keras_file, monkeypatch):
    """Serve the file at /good and an error at /404; note the requests."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.path == "/404":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(keras_file)))
            self.end_headers()
            self.wfile.write(keras_file)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        url, md5 = f"http://127.0.0.1:{httpd.server_port}", hashlib.md5(keras_file).hexdigest()
        yield SimpleNamespace(url=url, md5=md5, requests=requests)
        httpd.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no failed download in memory."""
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NST_JAX_OFFLINE", raising=False)
    monkeypatch.setattr(pretrained_module, "_failed_downloads", {})
    return tmp_path / "cache"


def test_download_converts_into_the_cache(server, cache, keras_file, capfd):
    path = download(url=f"{server.url}/good", md5=server.md5)
    assert path == cache / "vgg19.safetensors" == vgg19_cache_path()
    assert list(cache.iterdir()) == [path]
    weights = load(path)
    assert weights.model == "vgg19"
    assert weights.params["conv5_4"]["bias"][0] == pytest.approx(0.01)
    assert hashlib.sha256(keras_file).hexdigest().encode() in path.read_bytes()[:1000]
    assert load_pretrained("vgg19").path == load_pretrained("auto").path == path
    assert capfd.readouterr() == ("", "")


def test_only_a_damaged_file_is_downloaded_again(server):
    path = download(url=f"{server.url}/good", md5=server.md5)
    download(url=f"{server.url}/good", md5=server.md5)
    assert len(server.requests) == 1
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        load_pretrained("auto")
    download(url=f"{server.url}/good", md5=server.md5)
    assert len(server.requests) == 2
    assert load_pretrained("auto").model == "vgg19"


def test_a_cache_that_cannot_be_created_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"file/cache cannot be written .*set NST_JAX_CACHE"):
        download(url=f"{server.url}/good")
    assert server.requests == []


def test_auto_falls_back_with_one_warning_and_tries_once(server, monkeypatch, caplog):
    monkeypatch.setenv("NST_JAX_VGG19_URL", f"{server.url}/404")
    assert load_pretrained().path == bundled_path()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("nst_jax", "WARNING")
    assert record.getMessage().startswith("Using the bundled VGG16 instead of VGG19: ")
    assert "nst-jax weights convert" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert load_pretrained().model == "vgg16"
    with pytest.raises(InputError, match="404 Not Found"):
        load_pretrained("vgg19")
    assert server.requests == ["/404"]
    with pytest.raises(InputError, match="404 Not Found"):
        download()  # tries again
    assert len(server.requests) == 2


def test_offline_and_other_files_need_no_network(server, monkeypatch, caplog, tmp_path, keras_file):
    monkeypatch.setenv("NST_JAX_VGG19_URL", f"{server.url}/good")
    assert load_pretrained("vgg16").path == bundled_path()
    path = tmp_path / "mine.h5"
    path.write_bytes(keras_file)
    assert load_pretrained("auto", path).path == load_pretrained("vgg19", str(path)).path == path
    with pytest.raises(InputError, match=r"mine\.h5 contains VGG19, not VGG16; choose another"):
        load_pretrained("vgg16", path)
    with pytest.raises(InputError, match="preprocessing, not torchvision"):
        load_pretrained("auto", path, preprocessing="torchvision")
    monkeypatch.setenv("NST_JAX_OFFLINE", "1")
    assert load_pretrained().model == "vgg16"
    assert "NST_JAX_OFFLINE is set" in caplog.text
    for get in (download, lambda: load_pretrained("vgg19")):
        with pytest.raises(InputError, match=r"NST_JAX_OFFLINE is set.*by hand: get https://"):
            get()
    assert server.requests == []


def test_wrong_models_are_refused():
    with pytest.raises(InputError, match="'vgg11'; choose auto, vgg19 or vgg16"):
        load_pretrained("vgg11")
    with pytest.raises(InputError, match="'vgg16'; only vgg19 can be downloaded"):
        download("vgg16")
    save(vgg19_cache_path(), load(bundled_path()), dtype="float16")
    with pytest.raises(InputError, match=r"vgg19\.safetensors contains VGG16, not VGG19"):
        load_pretrained("auto")
