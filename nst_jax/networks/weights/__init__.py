"""Weight files of VGG16 and VGG19: read, check, convert, download and cache them.

`load` reads one file and `load_pretrained` finds the file. Both return `Weights` with NumPy arrays.
`load_arbitrary` reads the bundled network of `nst_jax.networks.arbitrary`. Nothing in this folder
imports JAX.
"""

from nst_jax.networks.weights.arbitrary import load_arbitrary
from nst_jax.networks.weights.download import cache_dir, download, vgg19_cache_path
from nst_jax.networks.weights.load import VerifyReport, Weights, from_params, load, save, verify
from nst_jax.networks.weights.pretrained import bundled_path, load_pretrained

__all__ = [
    "VerifyReport",
    "Weights",
    "bundled_path",
    "cache_dir",
    "download",
    "from_params",
    "load",
    "load_arbitrary",
    "load_pretrained",
    "save",
    "verify",
    "vgg19_cache_path",
]
