"""Operations on the metrics of several chunks."""

from collections.abc import Sequence

import numpy as np

from nst_jax.optimize.types import History

__all__ = ["concatenate_history", "select_image"]


def concatenate_history(chunks: Sequence[History]) -> History:
    """Join the metrics of chunks along the steps; a metric that a chunk lacks is NaN there.

    >>> import numpy as np
    >>> from nst_jax.optimize import History
    >>> first, second = History(total=np.ones(1)), History(total=np.zeros(1), tv=np.ones(1))
    >>> concatenate_history([first, second])
    {'total': array([1., 0.]), 'tv': array([nan,  1.])}
    """
    chunks = [chunk for chunk in chunks if chunk]
    names = dict.fromkeys(name for chunk in chunks for name in chunk)

    def column(chunk: History, name: str) -> np.ndarray:
        return chunk[name] if name in chunk else np.full_like(chunk["total"], np.nan)

    return History(
        {name: np.concatenate([column(chunk, name) for chunk in chunks]) for name in names}
    )


def select_image(history: History, index: int) -> History:
    """Return the history of one of several images.

    >>> import numpy as np
    >>> from nst_jax.optimize import History
    >>> select_image(History(step=np.array([1]), total=np.array([[4.0, 2.0]])), 1)
    {'step': array([1]), 'total': array([2.])}
    """
    columns = history.items()
    return History({name: x if x.ndim == 1 else x[:, index] for name, x in columns})
