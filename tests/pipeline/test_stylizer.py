"""A `Stylizer` outlives its images: what they share is made once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import InputError, Settings, Stylizer, collect, stylize
from nst_jax.networks import load as network_files
from nst_jax.pipeline import targets
from nst_jax.pipeline.caches import ArrayCache, Executables


@pytest.fixture
def stylizer(small):
    return Stylizer(**small)


@pytest.fixture
def events(monkeypatch):
    """Return a list of what JAX traces, lowers and compiles."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: seen.append(name))
    yield seen
    jax.monitoring.clear_event_listeners()


def test_its_images_are_those_of_single_calls(stylizer, content, styles, alone):
    for style, expected in zip(styles, alone["adam"], strict=True):
        np.testing.assert_array_equal(stylizer(content, style).image, expected.image)


@pytest.mark.parametrize(
    ("optimizer", "init"), [("adam", "content"), ("lbfgs", "content"), ("adam", "network")]
)
def test_the_second_image_of_a_shape_traces_and_compiles_nothing(
    small, content, styles, events, optimizer, init
):
    changed = small | {"optimizer": optimizer, "init": init}
    stylizer = Stylizer(**changed)
    stylizer(content, styles[0])
    stylizer(content[::-1], styles[1])  # what JAX compiles for single operations, once
    events.clear()
    result = stylizer(255 - content, styles[2])
    assert [name for name in events if "/compile/" in name or "trace" in name] == []
    expected = stylize(255 - content, styles[2], **changed)
    np.testing.assert_array_equal(result.image, expected.image)


def test_the_weights_are_read_once(small, content, styles, monkeypatch):
    loaded = []
    load = network_files.weight_files.load_pretrained
    monkeypatch.setattr(
        network_files.weight_files, "load_pretrained", lambda *a: loaded.append(a) or load(*a)
    )
    stylizer = Stylizer(**small | {"weights": None, "model": "vgg16"})
    for style in styles:
        stylizer(content, style)
    assert len(loaded) == 1


def test_the_targets_of_a_style_and_of_a_content_are_computed_once(
    stylizer, content, styles, monkeypatch
):
    computed = []
    compile_fn = stylizer.engine.executables.compile

    def note(jitted, *args, **static):
        executable = compile_fn(jitted, *args, **static)
        return lambda *args: computed.append(jitted) or executable(*args)

    monkeypatch.setattr(stylizer.engine.executables, "compile", note)

    def count():
        found = [computed.count(targets._content_features), computed.count(targets._style_targets)]
        computed.clear()
        return found

    stylizer(content, styles[0])
    assert count() == [2, 2]  # at two levels
    stylizer(content[::-1], styles[0])
    assert count() == [2, 0]
    stylizer(content, styles[1])
    assert count() == [0, 2]
    stylizer(content, styles[0], content_weight=1.0)
    assert count() == [0, 0]


def test_images_have_settings_of_their_own(stylizer, content, styles):
    result = stylizer(content, styles[0], size=34, steps=2, content_weight=0.2)
    assert (result.image.shape, result.metadata["content_weight"]) == ((26, 34, 3), 0.2)
    assert stylizer(content, styles[0]).image.shape == (36, 48, 3)


@pytest.mark.parametrize("name", ["model", "optimizer", "style_layers", "devices"])
def test_a_setting_of_the_stylizer_is_refused_for_an_image(stylizer, content, styles, name):
    value = getattr(stylizer.settings, name)
    with pytest.raises(InputError, match=f"{name} belongs to the stylizer .*; make another one"):
        stylizer(content, styles[0], **{name: value})


def test_jobs_run_one_after_another_from_a_generator(stylizer, content, styles, alone):
    jobs = (stylizer.job(content, style) for style in styles)
    results = collect(stylizer.run(jobs))
    for result, expected in zip(results, alone["adam"], strict=True):
        np.testing.assert_array_equal(result.image, expected.image)


def test_a_stop_ends_all_jobs_with_the_image_so_far(stylizer, content, styles):
    jobs = (stylizer.job(content, style) for style in styles)
    (result,) = collect(stylizer.run(jobs, callback_every=2), lambda progress: progress.step >= 4)
    assert (result.metadata["steps_done"], result.metadata["stopped"]) == (4, True)


def test_it_fits_other_settings_of_images_only(stylizer, small):
    fits = stylizer.engine.fits
    assert fits(Settings(**small | {"size": 64, "content_weight": 1.0}))
    assert not fits(Settings(**small | {"optimizer": "lbfgs"}))


def test_programs_are_kept_by_shape_dtype_and_static_arguments():
    def scaled(x, factor):
        return factor * x

    jitted = jax.jit(scaled, static_argnames="factor")
    compile_fn = Executables().compile
    first = compile_fn(jitted, jnp.ones(3), factor=2)
    assert compile_fn(jitted, jax.ShapeDtypeStruct((3,), jnp.float32), factor=2) is first
    for args, factor in (((jnp.ones(4),), 2), ((jnp.ones(3, jnp.int32),), 2), ((jnp.ones(3),), 3)):
        assert compile_fn(jitted, *args, factor=factor) is not first


def test_arrays_that_were_not_used_for_longest_are_dropped():
    cache, computed = ArrayCache(max_bytes=100), []

    def get(key, size=10):
        return cache.get(key, lambda: computed.append(key) or jnp.ones(size))

    for key in ("a", "b", "a", "c", "a", "b"):  # two of 40 bytes fit
        get(key)
    assert computed == ["a", "b", "c", "b"]
    assert get("large", 1000).shape == (1000,)  # it is returned, and kept by nobody
    assert "large" not in cache
