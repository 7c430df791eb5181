"""The levels of a job: their sizes, their steps, and the images at each of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax import InputError, Settings, Stylizer
from nst_jax.images import resize
from nst_jax.pipeline.job import downscale, style_sizes
from nst_jax.pipeline.levels import level_shapes, plan_levels
from nst_jax.pipeline.targets import level_inputs
from nst_jax.settings import DEFAULT_STEPS


@given(st.integers(16, 5000), st.integers(16, 5000), st.integers(16, 600))
def test_levels_grow_by_the_root_of_two(height, width, min_size):
    shapes = level_shapes((height, width), min_size)
    assert shapes[-1] == (height, width)
    for fine, coarse in zip(shapes[:0:-1], shapes[-2::-1], strict=True):
        assert max(fine) / max(coarse) == pytest.approx(2**0.5, rel=0.06)
        assert coarse[0] / coarse[1] == pytest.approx(height / width, rel=0.08)
    assert all(min(shape) >= 16 and max(shape) >= min_size for shape in shapes[:-1])
    next_size = round(max(height, width) / 2 ** (len(shapes) / 2))  # one level more
    shorter_side = min(height, width) * next_size / max(height, width)
    assert next_size < min_size or round(shorter_side) < 16


def test_an_image_no_larger_than_min_size_has_one_level():
    assert level_shapes((512, 300), None) == level_shapes((512, 300), 513) == [(512, 300)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(None, DEFAULT_STEPS[:3]), (7, (7, 7, 7)), ((7, 5), (7, 5, 5)), ((7, 5, 0), (7, 5, 0))],
)
def test_the_last_number_of_steps_repeats(steps, expected):
    levels = plan_levels(Settings(min_size=32, steps=steps), (48, 64))
    assert [level.shape for level in levels] == [(24, 32), (34, 45), (48, 64)]
    assert tuple(level.steps for level in levels) == expected


def test_more_numbers_of_steps_than_levels_are_refused():
    with pytest.raises(InputError, match="3 numbers of steps for levels of 34, 48 pixels"):
        plan_levels(Settings(min_size=34, steps=(1, 2, 3)), (48, 48))


@pytest.mark.parametrize(
    ("size", "shape"), [(None, (48, 64)), (32, (24, 32)), (128, (96, 128))], ids=str
)
def test_size_is_the_longest_side_of_the_output(job_of, size, shape):
    job = job_of(size=size, min_size=None, steps=1)
    assert [level.shape for level in job.levels] == [shape]


def test_a_level_has_each_image_at_its_size(content, styles, small):
    """Styles are scaled with the output and never enlarged; masks are as large as the content."""
    masks = [np.zeros((48, 64)), np.ones((48, 64))]
    masks[0][:24] = 1
    changes = {"style_scales": (0.5, 2.0), "masks": masks}
    job = Stylizer(**small | changes).job(content, styles[:2])
    coarse, fine = (level_inputs(job, i) for i in (0, 1))
    sizes = [style_sizes(job.settings, 2, level.shape) for level in job.levels]
    at_levels = [
        [downscale(style, size) for style, size in zip(job.styles, level_sizes, strict=True)]
        for level_sizes in sizes
    ]
    assert [[style.shape[0] for style in each] for each in at_levels] == [[17, 48], [24, 48]]
    np.testing.assert_allclose(at_levels[1][0], resize(styles[0] / 255, (24, 24)), atol=1e-6)
    np.testing.assert_allclose(fine.content, resize(content / 255, (36, 48)), atol=1e-6)
    assert coarse.content.shape == coarse.content_target.shape == (26, 34, 3)
    assert (coarse.masks.shape, fine.masks.shape) == ((2, 26, 34), (2, 36, 48))
    assert (fine.masks[0, :16] == 1).all()
    assert (fine.masks[0, 20:] == 0).all()
