"""PyTorch and Keras, which a process imports when a test first uses them.

Each worker collects all test files, and an import at their top would take seconds in each.
"""

import os

import pytest


class Lazy:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        if attribute.startswith("_"):  # pytest looks for fixtures in each name of a test file.
            raise AttributeError(attribute)
        module = pytest.importorskip(self._name)
        if self._name == "torch":  # Its threads and JAX's would compete for the same cores.
            module.set_num_threads(1)
        return getattr(module, attribute)


os.environ.setdefault("KERAS_BACKEND", "jax")
keras, torch, nnf = Lazy("keras"), Lazy("torch"), Lazy("torch.nn.functional")
