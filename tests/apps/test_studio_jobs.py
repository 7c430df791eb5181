"""The studio's jobs without a browser: the stream of one, the queue, sessions, uploads, views."""

import html
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import PIL.ImageColor
import pytest
from lazy import Lazy

from nst_jax import images
from nst_jax.apps.studio import reproduce, uploads
from nst_jax.apps.studio.choices import (
    MAX_STYLES,
    PER_STYLE,
    PRESETS,
    SINGLE,
    chosen_settings,
    control_values,
)
from nst_jax.apps.studio.job_queue import MAX_WAITING, QueuedJob
from nst_jax.apps.studio.render import live_view, loss_curve, message_view
from nst_jax.apps.studio.sessions import Sessions
from nst_jax.apps.studio.stream import seconds_left, stream
from nst_jax.apps.studio.uploads import MASK_COLORS, check_image, paint_mask
from nst_jax.errors import InputError
from nst_jax.pipeline import Stylizer, stylize
from nst_jax.pipeline.levels import LevelSpec
from nst_jax.settings import Settings

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("small_photos")]

BASE = Settings(
    min_size=24,
    dtype="float32",
    style_layers={"relu1_1": 1.0},
    content_layers={"relu1_2": 1.0},
)
CONTROLS = control_values(BASE, 1) | {"size": 40, "steps": "12,6", "model": "vgg16"}
SETTINGS = chosen_settings(BASE, CONTROLS)


@pytest.fixture
def sessions(job_queue, tmp_path):
    (tmp_path / "root").mkdir()
    return Sessions(tmp_path / "root", job_queue)


def make_session(sessions, name):
    session = sessions[name]
    session.base = BASE
    return session


def last(run):
    (*_, update) = (update for update in run.follow() if update is not None)
    return update


def test_a_stream_begins_with_the_image_of_the_network_before_a_loop_is_compiled(compilations):
    job = Stylizer(SETTINGS).job("content.png", "style.png")
    first = next(stream(job, lambda: False))
    assert "jit(_run_chunk)" not in compilations()
    assert (first.step, first.image.shape, first.result) == (0, (*job.levels[-1].shape, 3), None)
    photo = job.content
    assert 0.05 < np.abs(first.image - photo).mean() < 0.5


def test_a_stream_ends_with_the_image_that_stylize_makes():
    job = Stylizer(SETTINGS).job("content.png", "style.png")
    updates = list(stream(job, lambda: False))
    assert [update.step for update in updates] == sorted({update.step for update in updates})
    assert [update.result is not None for update in updates] == [
        *[False] * (len(updates) - 1),
        True,
    ]
    assert {update.level for update in updates} == {0, 1}
    final = updates[-1]
    assert (final.step, final.num_steps, len(final.losses), final.seconds_left) == (18, 18, 18, 0)
    expected = stylize("content.png", "style.png", SETTINGS)
    np.testing.assert_array_equal(final.result.image, expected.image)
    np.testing.assert_array_equal(final.losses, expected.history["total"])


def test_a_stop_keeps_the_image_so_far():
    job = Stylizer(SETTINGS).job("content.png", "style.png")
    updates = []
    for update in stream(job, lambda: len(updates) >= 2):
        updates.append(update)
    assert len(updates) == 3
    result = updates[-1].result
    assert result.metadata["stopped"]
    assert 1 < result.metadata["steps_done"] == updates[-1].step < 18
    np.testing.assert_array_equal(result.image, updates[-1].image)


def test_a_job_that_diverges_ends_with_its_last_finite_image():
    def update(gradient, count, params=None):
        return jnp.where(count < 3, -0.1, jnp.nan) * gradient, count + 1

    optimizer = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    settings = replace(SETTINGS, optimizer=optimizer, ema_decay=0.0)
    final = list(stream(Stylizer(settings).job("content.png", "style.png"), lambda: False))[-1]
    assert "stopped being finite" in final.error
    assert final.result.metadata["steps_done"] == final.step
    assert np.isfinite(final.result.image).all()
    assert 'role="alert"' in live_view(final)


def test_the_time_left_grows_with_the_pixels():
    levels = [LevelSpec((10, 20), 100), LevelSpec((20, 40), 50), LevelSpec((40, 80), 10)]
    assert seconds_left(levels, 0, 40, 0.5) == pytest.approx(0.5 * (60 + 4 * 50 + 16 * 10))
    assert seconds_left(levels, 2, 10, 0.5) == 0


def test_jobs_run_one_after_another_in_their_order(sessions, job_queue):
    events, lock = [], threading.Lock()

    def prepare(name):
        with lock:
            events.append(name)
        return Stylizer(SETTINGS).job("content.png", "style.png")

    runs = [QueuedJob(lambda name=name: prepare(name)) for name in "abc"]
    for run in runs:
        job_queue.submit(run)
    assert [job_queue.ahead(run) for run in runs] in ([0, 1, 2], [0, 0, 1], [0, 0, 0])
    updates = [last(run) for run in reversed(runs)]
    assert events == ["a", "b", "c"]
    assert all(update.result.metadata["stopped"] is False for update in updates)
    np.testing.assert_array_equal(updates[0].image, updates[1].image)


def test_a_waiting_job_that_is_stopped_never_starts(job_queue):
    release, started = threading.Event(), []

    def wait():
        release.wait(60)
        raise InputError("no image")

    first, second = QueuedJob(wait), QueuedJob(lambda: started.append(1))
    job_queue.submit(first)
    job_queue.submit(second)
    assert job_queue.ahead(second) == 1
    second.stop()
    release.set()
    assert [update for update in second.follow() if update] == []
    assert (started, second.error, first.error) == ([], "", "no image")


def test_a_warm_up_takes_one_chunk_when_nothing_else_runs(job_queue):
    events, release = [], threading.Event()

    def note(name):
        def prepare():
            events.append(name)
            return Stylizer(SETTINGS).job("content.png", "style.png")

        return prepare

    blocker = QueuedJob(lambda: release.wait(60) and Stylizer().job("none.png", "style.png"))
    job_queue.submit(blocker)
    job_queue.warm_up(note("replaced"))
    job_queue.warm_up(note("warm"))
    run = QueuedJob(note("job"))
    job_queue.submit(run)
    assert job_queue.ahead(run) == 1
    release.set()
    assert last(run).step == 18
    while events != ["job", "warm"]:
        threading.Event().wait(0.05)
    assert job_queue.close(timeout=60)


def test_a_full_queue_refuses_a_job(job_queue):
    release = threading.Event()
    blocker = QueuedJob(lambda: release.wait(60))
    job_queue.submit(blocker)
    waiting = [QueuedJob(lambda: None) for _ in range(MAX_WAITING + 1)]
    for run in waiting:
        run.stop()
    for run in waiting[:-1]:
        job_queue.submit(run)
    with pytest.raises(InputError, match=f"^{MAX_WAITING} images wait already"):
        job_queue.submit(waiting[-1])
    blocker.stop()
    release.set()


@pytest.mark.extended
def test_two_tabs_at_once_keep_their_own_images(sessions):
    tabs = {}
    for name, photo, size in (("one", "content.png", 40), ("two", "other.png", 48)):
        session = make_session(sessions, name)
        request = session.request(photo, ["style.png"], CONTROLS | {"size": size})
        tabs[name] = (session, request, sessions.submit(session, request))
    for name, (session, request, run) in tabs.items():
        session.keep(request, last(run).result)
        (entry,) = session.entries
        assert entry.path.parent == session.folder
        assert max(images.read(entry.path).pixels.shape) == {"one": 40, "two": 48}[name]
    assert sessions["one"].folder != sessions["two"].folder
    assert sessions["one"] is tabs["one"][0]


def test_a_tab_that_closes_stops_its_job_and_leaves_no_files(sessions):
    session = make_session(sessions, "one")
    slow = CONTROLS | {"steps": "100000", "size": 48}
    request = session.request("content.png", ["style.png"], slow)
    run = sessions.submit(session, request)
    updates = run.follow()
    while next(updates) is None:
        pass
    session.keep(request, stylize("content.png", "style.png", SETTINGS))
    sessions.close("one")
    sessions.close("one")
    assert last(run).result.metadata["stopped"]
    assert not session.folder.exists()
    assert sessions["one"] is not session


def test_an_image_of_the_history_is_made_again_and_read_back(sessions):
    session = make_session(sessions, "one")
    request = session.request("content.png", ["style.png"], CONTROLS)
    entry = session.keep(request, request.job() and stylize("content.png", "style.png", SETTINGS))
    assert entry.path.name == "image-1.png"
    found = reproduce.parse_metadata(reproduce.read_settings(entry.path))
    assert found == replace(SETTINGS, optimizer="lbfgs")  # what auto was
    assert entry.command().startswith("nst-jax stylize content.png style.png -o image-1.png ")
    assert '    "content.png"' in entry.snippet().replace("'", '"')


def test_continuing_starts_from_the_image_on_the_page(sessions):
    session = make_session(sessions, "one")
    with pytest.raises(InputError, match="no image to continue from"):
        session.request("content.png", ["style.png"], CONTROLS, continuing=True)
    for _ in range(2):
        request = session.request("content.png", ["style.png"], CONTROLS)
        session.keep(request, stylize("content.png", "style.png", SETTINGS))
    session.shown = 0
    request = session.request(
        "content.png", ["other.png"], CONTROLS | {"content_weight": 0.5}, continuing=True
    )
    assert (request.settings.init, request.settings.content_weight) == (
        session.entries[0].path,
        0.5,
    )
    assert request.made_files == [session.entries[0].path]
    job = request.job()
    assert [(max(level.shape), level.steps) for level in job.levels] == [(40, 6)]
    np.testing.assert_allclose(job.init_image, images.read(session.entries[0].path).pixels)
    result = last(sessions.submit(session, request)).result
    assert "--init image-1.png" in session.keep(request, result).command()


def test_a_painted_mask_is_a_file_of_the_job(sessions):
    session = make_session(sessions, "one")
    layer = np.zeros((12, 16, 4), np.uint8)
    for columns, color in ((slice(6), MASK_COLORS[0]), (slice(6, 12), MASK_COLORS[1])):
        layer[:, columns] = (*PIL.ImageColor.getrgb(color), 255)
    session.layers = [layer]
    two = CONTROLS | {"style_weights": (1.0, 1.0), "style_scales": (1.0, 1.0)}
    request = session.request("content.png", ["style.png", "other.png"], two)
    job = request.job()
    middle = job.masks[:, 15]  # of 30 rows; 40 columns, of which the last ten are the photo's
    assert middle[0, 5] == middle[1, 22] == 1
    assert middle[0, 22] == middle[1, 5] == middle[:, 37].max() == 0
    filled = session.request("content.png", ["style.png", "other.png"], two, fill=True).job()
    assert filled.masks[:, 15, 37].tolist() == [1, 0]
    assert [path.name for path in request.made_files] == ["mask-1.png"]
    written = sorted(session.folder.iterdir())
    warm_up = session.request("content.png", ["style.png", "other.png"], two, keep_mask=False)
    np.testing.assert_array_equal(warm_up.job().masks, job.masks)
    assert (warm_up.made_files, sorted(session.folder.iterdir())) == ([], written)
    with pytest.raises(InputError, match=r"^style 3 is painted nowhere; .*$"):
        paint_mask([layer], (24, 32), 3, fill=False)
    assert paint_mask([np.zeros_like(layer)], (24, 32), 2, fill=True) is None


@pytest.mark.parametrize(
    ("photo", "styles", "message"),
    [
        (None, ["style.png"], "there is no photo; drop one, or choose an example"),
        ("content.png", [None, None], "there is no style; drop a painting, or choose an example"),
    ],
)
def test_a_missing_image_is_named(sessions, photo, styles, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        make_session(sessions, "one").request(photo, styles, CONTROLS)


def test_a_bad_file_is_named_without_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "private"
    folder.mkdir()
    text, cut, large = (folder / name for name in ("text.png", "cut.png", "large.png"))
    text.write_text("no image")
    cut.write_bytes(Path("content.png").read_bytes()[:300])
    PIL.Image.new("1", (8001, 8001)).save(large)
    for path, reason in ((text, "not an image"), (cut, "damaged"), (large, "50 million pixels")):
        with pytest.raises(InputError, match=rf"^image '{path.name}': .*{reason}.*$") as caught:
            check_image(path)
        assert "private" not in str(caught.value)
    assert check_image("content.png") == (24, 32)
    monkeypatch.setattr(uploads, "MAX_PIXELS", 32 * 24 - 1)
    with pytest.raises(InputError, match="pixels; scale it down first"):
        check_image("content.png")


def test_only_an_upload_has_a_path(tmp_path):
    uploads_folder = tmp_path / "root"
    inside = str(uploads_folder / "cache" / "a.png")
    assert uploads.uploaded_path({"path": inside}, uploads_folder) == inside
    assert [uploads.uploaded_path(value, uploads_folder) for value in (None, "a", {})] == [None] * 3
    for path in ("content.png", "/etc/passwd", f"{uploads_folder}/../content.png", "", 3):
        with pytest.raises(InputError, match="was not uploaded to this page"):
            uploads.uploaded_path({"path": path}, uploads_folder)


def test_a_live_view_shows_the_image_and_where_the_job_is():
    job = Stylizer(SETTINGS).job("content.png", "style.png")
    updates = stream(job, lambda: False)
    assert "a first image by a network (40×30)" in live_view(next(updates))
    view = live_view(next(updates), note="1 image <waits>")
    assert re.search(r'<img src="data:image/jpeg;base64,[\w+/=]{100,}"', view)
    assert "level 1 of 2 (28×21), step 1 of 18, loss " in view
    assert html.escape("1 image <waits>") in view
    assert "<waits>" not in message_view("<waits>", error=True)


def test_the_curve_has_a_point_for_each_usable_loss_and_a_line_for_each_level():
    losses = np.array([100.0, 10.0, np.nan, 0.0, 1.0])
    curve = loss_curve(losses, np.array([28, 28, 28, 40, 40]), 10)
    (points,) = re.findall(r'points="([^"]*)"', curve)
    x, y = np.array([point.split(",") for point in points.split()], float).T
    assert x.tolist() == [60, 120, 300]
    assert y[1] - y[0] == pytest.approx(y[2] - y[1])
    assert curve.count('class="level"') == 1
    assert loss_curve(losses[:1], np.array([28]), 10) == ""


def test_settings_set_each_control_and_come_back(sessions):
    gradio = pytest.importorskip("gradio")
    events_of, page_of = Lazy("nst_jax.apps.studio.events"), Lazy("nst_jax.apps.studio.page")
    with gradio.Blocks():
        page = page_of.lay_out([], [])
    events = events_of.Events(page, sessions)
    tab = SimpleNamespace(session_hash="one")
    names = [*SINGLE, *(name for name in PER_STYLE for _ in range(MAX_STYLES))]
    assert len(page.controls) == len(names)
    for preset in PRESETS:
        updates = events.use_preset(tab, preset)
        assert set(updates) == {*page.controls, page.hidden}
        shown = [getattr(updates[control], "value", updates[control]) for control in page.controls]
        paths = [{"path": str(sessions.root / name)} for name in ("content.png", "style.png")]
        for path in paths:
            shutil.copy(Path(path["path"]).name, path["path"])
        values = (*paths, *[None] * (MAX_STYLES - 1), "", *shown)
        request = events._request(sessions["one"], values, continuing=False)
        assert request.settings == PRESETS[preset]
