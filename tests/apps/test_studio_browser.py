"""The studio in headless Chromium, as a user has it.

With ``NST_JAX_SCREENSHOTS=1`` the last test writes the pictures of ``docs/studio``.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nst_jax import images

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = os.environ.get("NST_JAX_SCREENSHOTS")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Serve the studio in an empty folder with the compiler's own options; return its address."""
    folder = tmp_path_factory.mktemp("studio")
    (folder / "tmp").mkdir()
    (folder / "secret.txt").write_text("secret")
    environment = os.environ | {
        "NST_JAX_OFFLINE": "1",
        "NST_JAX_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder / "tmp"),
    }
    environment.pop("XLA_FLAGS", None)
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-m", "nst_jax.apps.cli.main", "studio", "--port", "0"]
    with subprocess.Popen(
        [*command, "--max-upload", "400KB"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.match(r"studio: (http://127\.0\.0\.1:\d+)  ", line)
        assert match, line
        yield match[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert list((folder / "tmp").glob("nst-jax-studio-*")) == []


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium, server):
    """Return a tab with the studio, which must not ask any other server for anything."""
    tabs = []
    with Tab(chromium, server) as tab:
        tabs.append(tab)
        yield tab
    assert tab.foreign == []
    assert tab.errors == []


class Tab:
    """The studio in one tab."""

    def __init__(self, chromium, server):
        self.page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        self.foreign, self.errors = [], []
        local = (server, "data:", "blob:")
        self.page.on("request", lambda r: r.url.startswith(local) or self.foreign.append(r.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server)
        self.page.wait_for_selector("#start")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.page.close()

    def upload(self, place, path):
        self.page.set_input_files(f"#{place} input[type=file]", path)

    def choose(self, photo="cat.jpg", style="swirls.jpg", size=128, steps="40"):
        for place, name in (("photo", photo), ("style-1", style)):
            self.upload(place, EXAMPLES / name)
            self.page.wait_for_selector(f"#{place} img")
        self.set_size(size)
        self.set_steps(steps)

    def set_size(self, size):
        self.page.fill("#size input[type=number]", str(size))
        self.page.keyboard.press("Tab")

    def set_steps(self, steps):
        if not self.page.is_visible("#steps input, #steps textarea"):
            self.page.click("button:has-text('More')")
        self.page.fill("#steps input, #steps textarea", steps)
        self.page.keyboard.press("Tab")

    def steps_now(self):
        figure = self.page.query_selector("#live figure[data-step]")
        return int(figure.get_attribute("data-step")) if figure else 0

    def live_image(self):
        return self.page.get_attribute("#live img", "src")

    def wait_for(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            failed = self.page.query_selector("#live .studio-error")
            text = self.page.inner_text("#live")
            assert not failed and time.monotonic() < end, f"the page says: {text!r}"
            self.page.wait_for_timeout(20)

    def wait_for_step(self, step):
        self.wait_for(lambda: self.steps_now() >= step)

    def history_size(self):
        return self.page.locator("#history button.thumbnail-item").count()

    def wait_until_done(self, count=1):
        self.wait_for(lambda: self.history_size() == count)
        self.page.wait_for_selector("#stop[disabled]")

    def download(self, path):
        with self.page.expect_download() as download:
            self.page.click("#download")
        download.value.save_as(path)
        return json.loads(images.read_metadata(path)["nst_jax"])

    def open(self, name):
        self.page.get_by_role("tab", name=name).click()


def test_a_photo_becomes_an_image_while_the_user_watches(tab, tmp_path):
    tab.choose()
    tab.page.click("#start")
    tab.wait_for_step(1)
    first = tab.live_image()
    tab.wait_for_step(20)
    assert tab.live_image() != first
    tab.wait_until_done()
    status = tab.page.inner_text("#live figcaption")
    assert re.search(r"level 1 of 1 \(128×85\), step 40 of 40, loss .*, done in", status)
    assert tab.page.locator("#live svg polyline").count() == 1
    metadata = tab.download(tmp_path / "image.png")
    assert (metadata["size"], metadata["steps"], metadata["content"]) == (128, [40], "cat.jpg")
    image = images.read(tmp_path / "image.png").pixels
    photo = images.resize(images.read(EXAMPLES / "cat.jpg").pixels, image.shape[:2])
    assert image.shape == (85, 128, 3)
    assert np.abs(image - photo).mean() > 0.05
    tab.open("Before and after")
    tab.page.wait_for_selector("#compare img >> nth=1")
    assert tab.page.locator("#compare img").count() >= 2
    tab.open("Make it again")
    command = tab.page.inner_text("#command .cm-content")
    assert command.startswith("nst-jax stylize cat.jpg swirls.jpg -o image-1.png --size 128")
    assert "nst_jax.stylize(" in tab.page.inner_text("#snippet .cm-content")
