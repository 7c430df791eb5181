"""What is known about published weight files: addresses, hashes, licences."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nst_jax.models.weights.formats import Contents

__all__ = [
    "BUNDLED_SHA256",
    "CAFFE_LICENCE",
    "TORCHVISION_LICENCE",
    "VGG19_FILE",
    "VGG19_MD5",
    "VGG19_SIZE",
    "VGG19_URL",
    "Origin",
    "digest",
    "origin_of",
]

BUNDLED_SHA256: Final = "552de8df7d55a68031af5a35c15fe45fe74cc61bef4fa7bc564f9cd20c03852e"
"""SHA-256 of the bundled ``vgg16.safetensors``; ``weights/README.md`` says where it comes from."""

VGG19_FILE: Final = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
VGG19_URL: Final = (
    f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{VGG19_FILE}"
)
VGG19_MD5: Final = "253f8cb515780f3b799900260a226db6"
"""The hash that Keras publishes for the file."""
VGG19_SIZE: Final = 80_134_624

CAFFE_LICENCE: Final = (
    "CC BY 4.0, Simonyan & Zisserman (Visual Geometry Group, University of Oxford)"
)
TORCHVISION_LICENCE: Final = "BSD-3-Clause, torchvision"


@dataclass(frozen=True)
class Origin:
    """Source and licence in words, and the preprocessing of the training where it is known."""

    source: str
    licence: str
    preprocessing: str | None


_VGG19 = Origin(f"Keras Applications, VGG19 on ImageNet, {VGG19_FILE}", CAFFE_LICENCE, "caffe")

# PyTorch's files are named after the first digits of their SHA-256, so the content tells which of
# the well-known ones it is, whatever the file is called now.
_KNOWN_BY_SHA256 = {
    "dcbb9e9d": Origin("torchvision, VGG19 on ImageNet", TORCHVISION_LICENCE, "torchvision"),
    "397923af": Origin("torchvision, VGG16 on ImageNet", TORCHVISION_LICENCE, "torchvision"),
    "d01eb7cb": Origin("jcjohnson's conversion of Caffe's VGG19", CAFFE_LICENCE, "caffe"),
    "00b39a1b": Origin("jcjohnson's conversion of Caffe's VGG16", CAFFE_LICENCE, "caffe"),
}


def origin_of(path: Path, contents: Contents, sha256: str) -> Origin:
    """Return what is known of the file ``path``: by its hash, its metadata or its format."""
    if sha256[:8] in _KNOWN_BY_SHA256:
        return _KNOWN_BY_SHA256[sha256[:8]]
    if contents.format == "Keras legacy HDF5" and digest(path, "md5") == VGG19_MD5:
        return _VGG19
    return Origin(
        contents.metadata.get("source", f"{contents.format} file {path.name}"),
        contents.metadata.get("licence", "unknown"),
        contents.preprocessing,
    )


def digest(path: Path, algorithm: str) -> str:
    """Return the hash of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
