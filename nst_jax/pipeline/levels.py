"""The levels of a job: the sizes of its image pyramid, with their numbers of steps."""

from typing import NamedTuple

from nst_jax.errors import InputError
from nst_jax.images import fit_longest_side
from nst_jax.kinds import MIN_SIZE
from nst_jax.settings import DEFAULT_STEPS, Settings

__all__ = ["LevelSpec", "level_shapes", "plan_levels"]


class LevelSpec(NamedTuple):
    """One size of the pyramid."""

    shape: tuple[int, int]
    steps: int


def level_shapes(
    shape: tuple[int, int], min_size: int | None, min_side: int = MIN_SIZE
) -> list[tuple[int, int]]:
    """Return the shapes of a pyramid from coarse to fine, each √2 times the one before.

    Args:
        shape: (h, w) of the finest level.
        min_size: the smallest longest side of all coarser levels; None for the finest level alone.
        min_side: the smallest shortest side of all coarser levels.

    >>> level_shapes((341, 512), 128)
    [(85, 128), (121, 181), (170, 256), (241, 362), (341, 512)]
    """
    coarser, size = [], max(shape)
    while min_size is not None:
        side = round(size / 2 ** ((len(coarser) + 1) / 2))
        if side < min_size or min(fit_longest_side(shape, side)) < min_side:
            break
        coarser.append(fit_longest_side(shape, side))
    return [*reversed(coarser), shape]


def plan_levels(
    settings: Settings, shape: tuple[int, int], min_side: int = MIN_SIZE
) -> list[LevelSpec]:
    """Return the levels of an output of this shape.

    Args:
        settings: the settings.
        shape: (h, w) of the output.
        min_side: as in `level_shapes`.

    Raises:
        InputError: there are more numbers of steps than levels.
    """
    shapes = level_shapes(shape, settings.min_size, min_side)
    if settings.steps is None:
        steps = DEFAULT_STEPS[: len(shapes)]
    else:
        steps = settings.steps if isinstance(settings.steps, tuple) else (settings.steps,)
    if len(steps) > len(shapes):
        sizes = ", ".join(str(max(shape)) for shape in shapes)
        raise InputError(
            f"{len(steps)} numbers of steps for levels of {sizes} pixels; give at most one a level"
        )
    steps += steps[-1:] * (len(shapes) - len(steps))
    return [LevelSpec(*pair) for pair in zip(shapes, steps, strict=True)]
