"""Default layers for jobs of tests that name none, because deep networks compile slowly."""

LAYERS = {"content_layers": {"relu2_1": 1.0}, "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5}}
PATCH = f"""
from nst_jax import Settings
Settings.__init__.__kwdefaults__ |= {LAYERS!r}
"""
"""A program that changes the defaults, for a process of its own."""
