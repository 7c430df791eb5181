"""A job that does not fit at once is computed tile by tile, and is the same picture."""

import re
from threading import Event

import jax
import numpy as np
import pytest
from test_cli import CAT, FOR_BOTH, INK, call, error_line, settings_of

from nst_jax import InputError, Settings, TooLargeError, stylize
from nst_jax.pipeline import job, plan, targets

pytestmark = pytest.mark.usefixtures("folder")

SMALL = {
    "size": 96,
    "min_scale": 60,
    "steps": 4,
    "model": "vgg16",
    "dtype": "float32",
    "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
    "content_layers": {"relu2_2": 1.0},
}


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(plan, "TILES", (None, 64, 32))


def just_below(made):
    return f"{made.settings['planned_bytes'] / 1e6 - 0.1:.3f}MB"


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_tiles_make_the_same_picture(cat, roofs, petals, optimizer):
    masks = [np.tile(np.linspace(0, 1, cat.shape[1], dtype=np.float32), (len(cat), 1))]
    masks.append(1 - masks[0])
    options = SMALL | {"optimizer": optimizer, "masks": masks}
    whole = stylize(cat, [roofs, petals], **options)
    assert whole.settings["tile"] is None
    tiled = stylize(cat, [roofs, petals], **options, memory=just_below(whole))
    assert tiled.settings["tile"] == 64
    assert tiled.settings["planned_bytes"] < whole.settings["planned_bytes"]
    for ours, theirs in zip(tiled.history, whole.history, strict=True):
        assert ours["total"] == pytest.approx(theirs["total"], rel=1e-3)
    assert np.abs(tiled.image - whole.image).mean() < 1e-3


@pytest.mark.usefixtures("small_tiles")
def test_a_coarse_scale_that_fits_is_computed_at_once(cat, roofs, monkeypatch):
    whole = stylize(cat, roofs, **SMALL)
    chosen = []
    choose = plan.choose

    def noting(job, scale):
        chosen.append((scale, choose(job, scale).tile))
        return choose(job, scale)

    monkeypatch.setattr("nst_jax.painting.choose", noting)
    stylize(cat, roofs, **SMALL, memory=just_below(whole))
    assert chosen == [(1, 64), (0, None), (1, 64)]


def test_what_was_planned_is_not_compiled_again(cat, roofs, compilations):
    made = stylize(cat, roofs, **SMALL | {"size": 93})  # of a size not compiled before
    assert compilations().count("jit(_chunk)") == len(made.settings["scales"])


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(plan, "is_kept", lambda *args, **options: True)


@pytest.mark.usefixtures("kept")
def test_a_program_is_loaded_beside_what_is_done_meanwhile(cat, roofs, monkeypatch):
    begun, meanwhile, loaded = Event(), Event(), []

    def load(*args, **options):
        begun.set()
        assert meanwhile.wait(60)
        loaded.append(args)

    monkeypatch.setattr(plan, "compiled", load)
    with plan.ahead(job.prepare(cat, [roofs], Settings(**SMALL)), 0, None):
        assert begun.wait(60)
        meanwhile.set()
    assert len(loaded) == 1


def test_only_what_is_kept_is_loaded_and_not_beside_a_gpu(cat, roofs, monkeypatch):
    prepared = job.prepare(cat, [roofs], Settings(**SMALL))
    loaded = []
    monkeypatch.setattr(plan, "compiled", lambda *args, **options: loaded.append(args))
    for backend, kept, programs in (("cpu", False, 0), ("gpu", True, 0), ("cpu", True, 1)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        monkeypatch.setattr(plan, "is_kept", lambda *args, kept=kept, **options: kept)
        with plan.ahead(prepared, 0, None):
            pass
        assert len(loaded) == programs


@pytest.mark.usefixtures("kept")
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_program_that_cannot_be_loaded_ahead_is_met_when_it_is_wanted(cat, roofs, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no")

    monkeypatch.setattr(plan, "compiled", fail)
    assert stylize(cat, roofs, **SMALL | {"steps": 1}).settings["steps_done"] == 2


@pytest.mark.usefixtures("kept")
def test_an_interruption_does_not_wait_for_what_is_loaded(cat, roofs, monkeypatch):
    over, loaded = Event(), []

    def load(*args, **options):
        over.wait(10)
        loaded.append(args)

    monkeypatch.setattr(plan, "compiled", load)
    prepared = job.prepare(cat, [roofs], Settings(**SMALL))
    with pytest.raises(KeyboardInterrupt), plan.ahead(prepared, 0, None):
        raise KeyboardInterrupt
    assert loaded == []
    over.set()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bfloat16", "style_layers": {"conv1_1": 1.0, "relu3_1": 1.0}},
        {"masks": True},
        {"style_weight": 0},
        {"content_weight": 0},
        {"form": "paper", "pooling": "average", "padding": "same"},
    ],
)
def test_targets_have_the_shapes_that_were_planned_for(cat, roofs, petals, changes):
    if "masks" in changes:
        changes = {"masks": [np.ones(cat.shape[:2]), np.full(cat.shape[:2], 0.5)]}
    prepared = job.prepare(cat, [roofs, petals], Settings(**SMALL | changes))
    styles = range(len(prepared.style_pixels))
    assert prepared.scales[-1].shape == (77, 96)  # odd, so that poolings drop a row
    made = targets.targets_at(prepared, -1, styles, with_content=True)
    likely = targets.targets_like(prepared, -1)
    assert jax.tree.structure(made) == jax.tree.structure(likely)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made)
    assert jax.tree.leaves(shapes) == jax.tree.leaves(likely)


def test_the_plan_grows_with_the_picture(cat, roofs):
    small, large = (
        stylize(cat, roofs, **SMALL | {"size": size, "min_scale": None, "steps": 0}).settings
        for size in (128, 256)
    )
    assert 3 < large["planned_bytes"] / small["planned_bytes"] < 4.5


@pytest.mark.usefixtures("small_tiles")
def test_what_fits_in_no_way_is_refused(cat, roofs):
    with pytest.raises(
        TooLargeError, match=r"96x77 pixels need about .* GiB of memory even in tiles"
    ):
        stylize(cat, roofs, **SMALL, memory="1MB")
    with pytest.raises(InputError, match="'much' is no size of memory"):
        stylize(cat, roofs, **SMALL, memory="much")


def test_the_command_line_tells_before_it_starts(monkeypatch):
    loud = [word for word in FOR_BOTH if word != "-q"]
    told = call("stylize", CAT, INK, *loud, "-o", "out.png").stderr
    assert re.match(r"note: 64x43 pixels need about \d+(\.\d+)? GiB of memory\n", told)
    assert call("stylize", CAT, INK, *FOR_BOTH, "-o", "out.png").stderr == ""

    monkeypatch.setattr(plan, "TILES", (None, 32))
    job = ("stylize", CAT, INK, *loud, "--size", "160", "-o", "out.png")  # halos are 80 pixels
    call(*job, "-q")
    needed = settings_of("out.png")["planned_bytes"]
    told = call(*job, "--memory", f"{needed / 1e6 - 0.1:.3f}MB").stderr
    assert "GiB of memory, in tiles of up to 32 pixels" in told
    assert settings_of("out.png")["tile"] == 32
    assert "even in tiles" in error_line(*job, "--memory", "1MB")
    assert "no size of memory" in error_line(*job, "--memory", "1 apple")
