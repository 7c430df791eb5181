"""Real parameters, real photos and a VGG in PyTorch, shared by the tests."""

import logging
import os
import re

# Compiling with optimizations takes longer than the few steps of a test. A CPU can stand for eight
# devices. JAX reads this variable when it is first used, here and in processes that tests start.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8"
)

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import no_type_check

import hypothesis
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from lazy import nnf, torch
from PIL import Image
from skimage import data

jax.config.update("jax_platforms", "cpu")
hypothesis.settings.register_profile("nst_jax", deadline=None)
hypothesis.settings.load_profile("nst_jax")

CHECKED = (  # modules whose jaxtyping annotations the tests check
    "nst_jax.images.color",
    "nst_jax.images.grid",
    "nst_jax.images.masks",
    "nst_jax.losses.objective",
    "nst_jax.losses.own_terms",
    "nst_jax.losses.statistics.gram",
    "nst_jax.losses.terms",
    "nst_jax.networks.arbitrary",
    "nst_jax.networks.kernels",
    "nst_jax.networks.layers",
    "nst_jax.networks.protocol",
    "nst_jax.networks.vgg",
    "nst_jax.partitioning.sharding",
    "nst_jax.partitioning.tiling",
)
with jaxtyping.install_import_hook(CHECKED, "beartype.beartype"):
    for module in CHECKED:
        import_module(module)
    from nst_jax.losses.objective import LossWeights, Targets
    from nst_jax.networks import prepare
    from nst_jax.networks.kernels.conv3x3 import DirectKernel
    from nst_jax.networks.kernels.winograd import WinogradKernel
    from nst_jax.networks.layers import POOL_SCALE
    from nst_jax.networks.weights import bundled_path, load

# Winograd's form compiles slowly. Jobs in tests use it in a few layers only.
WINOGRAD_MIN_CHANNELS = prepare.WINOGRAD_MIN_CHANNELS
prepare.WINOGRAD_MIN_CHANNELS = 512

# JAX rebuilds pytrees around leaves that are not arrays (shapes, axes, markers).
for dataclass in (Targets, LossWeights, DirectKernel, WinogradKernel):
    no_type_check(dataclass.__init__)

CONFIGURATIONS = {  # filters of each convolution; 0 is a pooling
    "vgg16": (64, 64, 0, 128, 128, 0, *[256] * 3, 0, *[512] * 3, 0, *[512] * 3),
    "vgg19": (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4),
}


@pytest.fixture(autouse=True, scope="session")
def _compilation_cache(tmp_path_factory):
    """Cache compiled functions, by default for the session: many tests run jobs of the same
    shapes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own
        folder = folder.parent
    settings = {
        "jax_compilation_cache_dir": os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", str(folder / "compiled")
        ),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for the processes that tests start


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder that also holds the weight cache, without network access."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NST_JAX_OFFLINE", "1")
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture
def small_photos(folder, photos):
    """Write three photos of 32x24 pixels into the working folder."""
    for name, photo in (("content", "chelsea"), ("style", "flower"), ("other", "china")):
        Image.fromarray(photos[photo]).resize((32, 24)).save(f"{name}.png")


@pytest.fixture(autouse=True)
def _logger():
    """Give each test the logger as it was."""
    logger = logging.getLogger("nst_jax")
    handlers, level = logger.handlers, logger.level
    yield
    logger.handlers, logger.propagate = handlers, True
    logger.setLevel(level)


@pytest.fixture
def compilations(caplog):
    """Return a function that lists what XLA has compiled so far in the test: ``jit(name)``."""
    jax.config.update("jax_log_compiles", True)
    yield lambda: re.findall(r"Finished XLA compilation of (\S+)", caplog.text)
    jax.config.update("jax_log_compiles", False)


@pytest.fixture
def unchecked(monkeypatch):
    """Turn the annotation checks off, so that wrong arguments reach the code itself."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def winograd_as_installed(monkeypatch):
    """Use Winograd's form in as many layers as outside of the tests."""
    monkeypatch.setattr(prepare, "WINOGRAD_MIN_CHANNELS", WINOGRAD_MIN_CHANNELS)


@pytest.fixture(scope="session")
def vgg16():
    """Parameters of the bundled VGG16."""
    return jax.tree.map(jnp.asarray, load(bundled_path()).params)


@pytest.fixture(scope="session")
def vgg19():
    """Random parameters of VGG19 (He et al. 2015), with a preprocessing of their own."""
    rng = np.random.default_rng(19)
    mean, std = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.25, 0.3])
    params, before, block, index = {"input": {"mean": mean, "std": std}}, 3, 1, 0
    for width in CONFIGURATIONS["vgg19"]:
        if width == 0:
            block, index = block + 1, 0
            continue
        index += 1
        kernel = rng.normal(0, np.sqrt(2 / (9 * before)), (3, 3, before, width))
        params[f"conv{block}_{index}"] = {"kernel": kernel, "bias": rng.normal(0, 0.1, width)}
        before = width
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


@pytest.fixture(scope="session")
def photos():
    """Five photos by name, uint8."""
    return {
        "astronaut": data.astronaut(),
        "chelsea": data.chelsea(),
        "coffee": data.coffee(),
        "china": photo_of_sklearn("china.jpg"),
        "flower": photo_of_sklearn("flower.jpg"),
    }


def photo_of_sklearn(name):
    """Read a photo without importing scikit-learn, which takes a second."""
    folder = Path(find_spec("sklearn").origin).parent / "datasets" / "images"
    return np.asarray(Image.open(folder / name))


def crop(photo, top, left, height, width, stride=2):
    part = photo[top:, left:][: height * stride : stride, : width * stride : stride]
    return jnp.asarray(part, jnp.float32) / 255


@pytest.fixture(scope="session")
def face(photos):
    """64 by 80 pixels of a person, float32 RGB in [0, 1]."""
    return crop(photos["astronaut"], 30, 130, 64, 80)


@pytest.fixture(scope="session")
def cat(photos):
    """64 by 80 pixels of a cat, as large as the face."""
    return crop(photos["chelsea"], 60, 100, 64, 80)


@pytest.fixture(scope="session")
def roofs(photos):
    """72 by 56 pixels of a temple's roofs."""
    return crop(photos["china"], 60, 200, 72, 56)


@pytest.fixture(scope="session")
def petals(photos):
    """48 by 64 pixels of a flower."""
    return crop(photos["flower"], 100, 200, 48, 64)


def torch_features(params, image, pooling="max", padding="replicate", blocks=5):
    """Run the first ``blocks`` of VGG in PyTorch on ``image`` (h, w, 3), in its dtype.

    Returns the features by layer, (n, h, w).
    """

    def tensor(x):
        return torch.tensor(np.asarray(x)).to(image.dtype)

    widths = tuple(params[n]["kernel"].shape[3] for n in sorted(params) if n != "input")
    (config,) = [c for c in CONFIGURATIONS.values() if tuple(w for w in c if w) == widths]
    features, block, index = {}, 1, 0
    x = (image - tensor(params["input"]["mean"])) / tensor(params["input"]["std"])
    x = x.permute(2, 0, 1)[None]
    for width in config:
        if width == 0:
            if block == blocks:
                break
            scale = POOL_SCALE[pooling]
            if pooling == "max":
                x = nnf.max_pool2d(x, 2)
            elif pooling in ("average", "scaled_average"):
                x = scale * nnf.avg_pool2d(x, 2)
            else:
                x = scale * nnf.lp_pool2d(x, 2, 2)
            block, index = block + 1, 0
            continue
        index += 1
        layer = params[f"conv{block}_{index}"]
        kernel = tensor(layer["kernel"]).permute(3, 2, 0, 1)
        if (block, index, padding) == (1, 1, "replicate"):
            x = nnf.pad(x, (1, 1, 1, 1), mode="replicate")
        else:
            x = nnf.pad(x, (1, 1, 1, 1))
        x = nnf.conv2d(x, kernel, tensor(layer["bias"]))
        features[f"conv{block}_{index}"] = x[0]
        x = nnf.relu(x)
        features[f"relu{block}_{index}"] = x[0]
    return features


@pytest.fixture(scope="session")
def reference_features():
    return torch_features


@pytest.fixture(scope="session")
def keras_file(tmp_path_factory):
    """A file of VGG19 as Keras publishes it, of a few kilobytes."""
    from networks.weights.helpers import write_sparse_keras  # after the modules that are checked

    path = tmp_path_factory.mktemp("keras") / "vgg19.h5"
    return write_sparse_keras(path, "vgg19").read_bytes()


@pytest.fixture
def job_queue():
    """The queue of a studio; its jobs must end with the test."""
    from nst_jax.apps.studio.job_queue import JobQueue

    job_queue = JobQueue()
    yield job_queue
    assert job_queue.close(timeout=120)
