"""The objective over a mesh of devices: each holds some rows of the image and of its features.

XLA's partitioner divides the work: it exchanges one row with each neighbor before a convolution and
sums the Gram matrices. It does so only where the rows of every layer divide evenly. So images of
other heights are padded, and the features of rows outside of the image are zero, as they are for
tiles (`nst_jax.networks.PatchWindow`). Value and gradient are those of `nst_jax.loss`, up to
rounding.

A mesh has the axes `IMAGES` and `ROWS`. The first divides the images of a batch, the second the
rows of each. An array that cannot be divided into equal rows is divided into columns, or copied.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from nst_jax.errors import InputError
from nst_jax.losses import objective
from nst_jax.losses.objective import LossWeights, Targets
from nst_jax.networks.protocol import Network, PatchWindow, check_image, check_size
from nst_jax.optimize import State, spans_processes
from nst_jax.partitioning.tiling import round_up, tile_unit

__all__ = [
    "IMAGES",
    "ROWS",
    "check_mesh",
    "make_mesh",
    "replicate",
    "shard_batch",
    "shard_image",
    "shard_state",
    "sharded_features",
    "sharded_loss",
    "sharded_loss_fn",
    "state_shardings",
]

IMAGES: Final = "images"
"""The axis of a mesh that divides the images of a batch."""
ROWS: Final = "rows"
"""The axis of a mesh that divides the rows of an image."""
MIN_ROWS: Final = 64
"""Rows of pixels of one device, at least: with less, the exchanges take longer than the rows."""


def make_mesh(devices: Sequence[Any], height: int, batch_size: int = 1) -> Mesh:
    """Divide devices over the images of a batch, and over the rows of each image.

    As many devices as possible get images of their own. The others share the rows, as long as each
    device has `MIN_ROWS` or more. The remaining devices hold replicas.

    Args:
        devices: all of them take part.
        height: the height of an image in pixels.
        batch_size: the number of images that run together.

    Returns:
        A mesh with the axes `IMAGES`, ``replicas`` and `ROWS`; XLA chooses the shardings inside.

    Raises:
        InputError: there are no devices.

    >>> import jax
    >>> dict(make_mesh(jax.devices()[:1], height=512).shape)
    {'images': 1, 'replicas': 1, 'rows': 1}
    """
    count = len(devices)
    if not count:
        raise InputError("there are no devices for the mesh; give some of jax.devices()")
    images = max(n for n in _divisors(count) if batch_size % n == 0)
    rest = count // images
    rows = max(n for n in _divisors(rest) if n == 1 or height >= n * MIN_ROWS)
    grid = np.asarray(devices, object).reshape(images, rest // rows, rows)
    return Mesh(grid, (IMAGES, "replicas", ROWS), axis_types=(AxisType.Auto,) * 3)


def check_mesh(mesh: Mesh) -> None:
    """Refuse a mesh that cannot divide a batch of images.

    Raises:
        InputError: an axis `IMAGES` or `ROWS` is missing, or XLA may not choose the shardings
            inside along an axis (its type is not Auto).

    >>> import jax
    >>> check_mesh(jax.make_mesh((1,), ("x",)))
    Traceback (most recent call last):
    nst_jax.errors.InputError: the mesh has the axes x; give images and rows, as \
nst_jax.partitioning.make_mesh does
    """
    if not {IMAGES, ROWS} <= set(mesh.axis_names):
        raise InputError(
            f"the mesh has the axes {', '.join(mesh.axis_names)}; give {IMAGES} and {ROWS}, as "
            "nst_jax.partitioning.make_mesh does"
        )
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise InputError(
            "the mesh has axes of another type than Auto; give axis_types of jax.sharding.AxisType."
            "Auto, as nst_jax.partitioning.make_mesh does"
        )


def _axis_size(mesh: Mesh, axis: str) -> int:
    if axis not in mesh.shape:
        raise InputError(
            f"the mesh has the axes {', '.join(mesh.axis_names)} and none named {axis}; make it "
            "with nst_jax.partitioning.make_mesh"
        )
    return mesh.shape[axis]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def sharded_features(
    network: Network,
    params: PyTree,
    image: Float[Array, "h w 3"],
    layers: Sequence[str],
    *,
    mesh: Mesh,
) -> dict[str, Float[Array, "h_l w_l n_l"]]:
    """``network.features(params, image, layers)``, divided over the rows of a mesh.

    Args:
        network: the network.
        params: and the rest: as in `nst_jax.networks.Network.features`.
        mesh: has the axis `ROWS`, with axes of the type Auto.

    Raises:
        InputError: as in `nst_jax.networks.Network.features`; the mesh has no axis `ROWS`; or the
            network has no finite receptive radius.

    >>> import jax
    >>> from nst_jax import VGG, prepare_params, weights
    >>> from nst_jax.partitioning import make_mesh
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu1_1"])
    >>> image = jax.random.uniform(jax.random.key(0), (16, 16, 3))
    >>> mesh = make_mesh(jax.devices(), height=16)
    >>> sharded_features(VGG(), params, image, ["relu1_1"], mesh=mesh)["relu1_1"].shape
    (16, 16, 64)
    """
    check_image(image)
    if not layers:
        return {}
    check_size(network, image.shape[:2], layers)
    if network.receptive_radius(params, layers) is None:
        raise InputError(
            f"{network} has no finite receptive radius, so its images cannot be divided over "
            "devices; use one device"
        )
    height, width, _ = image.shape
    rows = round_up(height, tile_unit(network, layers) * _axis_size(mesh, ROWS))
    padded = jnp.pad(image, ((0, rows - height), (0, 0), (0, 0)), mode="edge")
    padded = lax.with_sharding_constraint(padded, NamedSharding(mesh, P(ROWS)))
    window = None if rows == height else PatchWindow(0, 0, height, width)
    features = network.features(params, padded, layers, window)
    return {layer: x[: network.grid(layer, (height, width))[0]] for layer, x in features.items()}


def sharded_loss(
    image: Float[Array, "h w 3"],
    params: PyTree,
    targets: Targets,
    loss_weights: LossWeights,
    *,
    mesh: Mesh,
    key: Array | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`nst_jax.loss` over the rows of a mesh; differentiate it in the same way.

    Args:
        image: and the rest: as in `nst_jax.loss`.
        mesh: has the axis `ROWS`, with axes of the type Auto.
        key: as in `nst_jax.loss`.

    Raises:
        InputError: as in `nst_jax.loss` and `sharded_features`.

    >>> import jax
    >>> from nst_jax import LossWeights, make_targets, prepare_params, weights
    >>> from nst_jax.partitioning import make_mesh, shard_image
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu1_1"])
    >>> image, style = jax.random.uniform(jax.random.key(0), (2, 32, 16, 3))
    >>> targets = make_targets(params, styles=[style], style_layers=["relu1_1"])
    >>> mesh = make_mesh(jax.devices(), height=32)
    >>> loss_weights = LossWeights(style_layers={"relu1_1": 1.0})
    >>> jitted = jax.jit(sharded_loss, static_argnames="mesh")
    >>> total, _ = jitted(shard_image(image, mesh), params, targets, loss_weights, mesh=mesh)
    >>> total.shape
    ()
    """
    objective.check_targets(image, targets, loss_weights)
    layers = objective.required_layers(targets)
    features = sharded_features(targets.network, params, image, layers, mesh=mesh)
    statistics = objective.compute_statistics(image, features, targets)
    return objective.total_loss(statistics, image, targets, loss_weights, key=key)


@cache
def sharded_loss_fn(mesh: Mesh) -> Callable[..., Any]:
    """Return `sharded_loss` with its mesh; the same object for the same mesh, so that the
    optimization compiles it once.

    >>> import jax
    >>> from nst_jax.partitioning import make_mesh
    >>> mesh = make_mesh(jax.devices(), height=512)
    >>> sharded_loss_fn(mesh) is sharded_loss_fn(mesh)
    True
    """
    return partial(sharded_loss, mesh=mesh)


def shard_image(image: Float[Any, "h w n"], mesh: Mesh) -> Float[Array, "h w n"]:
    """Put an image, or features, on the devices of a mesh: in equal rows, or columns, or replicas.

    Raises:
        InputError: the mesh has no axis `ROWS`.

    >>> import jax
    >>> from nst_jax.partitioning import make_mesh
    >>> mesh = make_mesh(jax.devices()[:1], height=512)
    >>> shard_image(jax.numpy.ones((512, 16, 3)), mesh).sharding.spec[0]
    'rows'
    """
    return _put(image, _sharding(mesh, np.shape(image)))


def shard_state(state: State, mesh: Mesh) -> State:
    """Put the state of an optimization on the devices of a mesh, as `state_shardings` says.

    Raises:
        InputError: as in `state_shardings`.

    >>> import jax
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> from nst_jax.partitioning import make_mesh
    >>> state = init_state(jax.numpy.ones((512, 16, 3)), optimizer=optax.adam(0.02))
    >>> mesh = make_mesh(jax.devices()[:1], height=512)
    >>> shard_state(state, mesh).iterate.sharding.spec[0]
    'rows'
    """
    return jax.tree.map(_put, state, state_shardings(state, mesh))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Return how each array of a state is divided over a mesh.

    Everything as large as the image, as Adam's moments and L-BFGS' memory, is divided as the image
    is; counters and scalars are copied. The arrays may be shapes (``jax.ShapeDtypeStruct``).

    Raises:
        InputError: the mesh has no axis `ROWS`, or no axis `IMAGES` for a batch.

    >>> import jax
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> from nst_jax.partitioning import make_mesh
    >>> state = init_state(jax.numpy.ones((512, 16, 3)), optimizer=optax.adam(0.02))
    >>> mesh = make_mesh(jax.devices()[:1], height=512)
    >>> state_shardings(state, mesh).iterate.spec[0]
    'rows'
    """
    batched = np.ndim(state.step) == 1
    return jax.tree.map(lambda leaf: _sharding(mesh, np.shape(leaf), batched=batched), state)


def shard_batch(tree: Any, mesh: Mesh) -> Any:
    """Divide the first axis of all arrays of a pytree over `IMAGES`.

    Raises:
        InputError: the mesh has no axis `IMAGES`.

    >>> import jax
    >>> from nst_jax.partitioning import make_mesh
    >>> mesh = make_mesh(jax.devices()[:1], height=16, batch_size=2)
    >>> shard_batch({"styles": jax.numpy.ones((2, 4, 4))}, mesh)["styles"].sharding.spec[0]
    'images'
    """
    return jax.tree.map(lambda x: _put(x, _sharding(mesh, x.shape[:1], batched=True)), tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copy the arrays of a pytree to all devices of a mesh.

    >>> import jax
    >>> from nst_jax.partitioning import make_mesh
    >>> mesh = make_mesh(jax.devices(), height=512)
    >>> replicate({"gram": jax.numpy.eye(4)}, mesh)["gram"].sharding.is_fully_replicated
    True
    """
    return jax.tree.map(lambda x: _put(x, NamedSharding(mesh, P())), tree)


def _sharding(mesh: Mesh, shape: tuple[int, ...], *, batched: bool = False) -> NamedSharding:
    """Return how an array of this shape is divided; JAX divides its axes into equal parts only."""
    spec: list[str | None] = [None] * len(shape)
    if batched and shape and shape[0] % _axis_size(mesh, IMAGES) == 0:
        spec[0] = IMAGES
    if len(shape) >= 3 + batched:
        rows = _axis_size(mesh, ROWS)
        axis = next((i for i in (-3, -2) if shape[i] % rows == 0), None)
        if axis is not None:
            spec[axis] = ROWS
    return NamedSharding(mesh, P(*spec))


def _put(x: Any, sharding: NamedSharding) -> Array:
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if spans_processes(x):
        return jax.jit(lambda x: x, out_shardings=sharding)(x)
    pixels = np.asarray(x)
    return jax.make_array_from_callback(pixels.shape, sharding, lambda index: pixels[index])
