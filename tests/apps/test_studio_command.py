"""The command ``nst-jax studio``, as far as it goes without a browser."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from apps.helpers import PROGRAM, error_line


@pytest.mark.usefixtures("folder")
def test_the_other_commands_do_not_import_gradio():
    code = "import sys, nst_jax.apps.cli.main, nst_jax.pipeline; print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.usefixtures("folder")
def test_without_gradio_the_studio_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert error_line("studio") == ('error: the studio needs gradio: pip install "nst-jax[studio]"')


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("limit", ["big", "0MB", "-1"])
def test_a_limit_that_is_no_amount_is_refused(limit):
    line = error_line("studio", "--max-upload", limit)
    assert line == f"error: --max-upload is {limit!r}; give an amount such as 32MB"


@pytest.mark.usefixtures("folder")
def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line = error_line("studio", "--port", port)
    assert line.startswith(f"error: port {port} of 127.0.0.1 cannot be used (")
    assert line.endswith("); choose another --port")


@pytest.mark.parametrize(
    "ending", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extended)]
)
def test_the_studio_ends_and_removes_its_files(folder, tmp_path, ending):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*PROGRAM, "studio", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        page = urllib.request.urlopen(address, timeout=30)
        assert page.headers["content-security-policy"].startswith("default-src 'self';")
        assert b"nst_jax studio" in page.read()
        assert list(tmp_path.glob("nst-jax-studio-*"))
        start = time.monotonic()
        process.send_signal(ending)
        assert process.wait(30) == 0
        assert time.monotonic() - start < 20
    assert not list(tmp_path.glob("nst-jax-studio-*"))
