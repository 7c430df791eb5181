"""Known weight files: where they are, their hashes, their licenses and their preprocessing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nst_jax._types import Preprocessing
from nst_jax.files import file_hash
from nst_jax.networks.weights.keras import KERAS_LEGACY
from nst_jax.networks.weights.validation import WeightFile

__all__ = ["Provenance", "find_bundled", "lookup"]

BUNDLED_SHA256: Final = "552de8df7d55a68031af5a35c15fe45fe74cc61bef4fa7bc564f9cd20c03852e"
"""SHA-256 of the bundled ``vgg16.safetensors``. ``weights/README.md`` says where it comes from."""

VGG19_FILE: Final = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
VGG19_URL: Final = (
    f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{VGG19_FILE}"
)
VGG19_MD5: Final = "253f8cb515780f3b799900260a226db6"
"""The hash that Keras publishes for the file."""
VGG19_SIZE: Final = 80_134_624
"""Bytes of the file."""

CAFFE_LICENSE: Final = (
    "CC BY 4.0, Simonyan & Zisserman (Visual Geometry Group, University of Oxford)"
)
TORCHVISION_LICENSE: Final = "BSD-3-Clause, torchvision"


@dataclass(frozen=True)
class Provenance:
    """Source and license in words, and the preprocessing if it is known."""

    source: str
    license: str
    preprocessing: Preprocessing | None


_VGG19 = Provenance(f"Keras Applications, VGG19 on ImageNet, {VGG19_FILE}", CAFFE_LICENSE, "caffe")

# PyTorch names its files after the first digits of their SHA-256, so the hash identifies these
# files even if they have been renamed.
_KNOWN_BY_SHA256 = {
    "dcbb9e9d": Provenance("torchvision, VGG19 on ImageNet", TORCHVISION_LICENSE, "torchvision"),
    "397923af": Provenance("torchvision, VGG16 on ImageNet", TORCHVISION_LICENSE, "torchvision"),
    "d01eb7cb": Provenance("jcjohnson's conversion of Caffe's VGG19", CAFFE_LICENSE, "caffe"),
    "00b39a1b": Provenance("jcjohnson's conversion of Caffe's VGG16", CAFFE_LICENSE, "caffe"),
}


def lookup(path: Path, weight_file: WeightFile, sha256: str) -> Provenance:
    """Return the provenance of the file ``path``, from its hash, its metadata or its format."""
    if sha256[:8] in _KNOWN_BY_SHA256:
        return _KNOWN_BY_SHA256[sha256[:8]]
    if weight_file.format == KERAS_LEGACY and file_hash(path, "md5") == VGG19_MD5:
        return _VGG19
    metadata = weight_file.metadata
    return Provenance(
        metadata.get("source", f"{weight_file.format} file {path.name}"),
        # The bundled file has the British spelling.
        metadata.get("license") or metadata.get("licence", "unknown"),
        weight_file.preprocessing,
    )


def find_bundled(name: str = "vgg16.safetensors") -> Path | None:
    """Return a bundled file, which is in an installed package or beside it in a checkout."""
    package = Path(__file__).parents[2]
    folders = (package / "bundled", package.parent / "weights")
    return next((p for f in folders if (p := f / name).is_file()), None)
