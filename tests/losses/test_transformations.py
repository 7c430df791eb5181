"""Which transformations of JAX work on the loss, with loaded and with prepared parameters.

The table in docs/guide/transformations.md states it; each row is run here.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import LossWeights, loss, make_targets, prepare_params

pytestmark = pytest.mark.extended

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "transformations.md"
LAYERS = {"relu1_1": 0.4, "relu2_1": 0.6}
CONTENT = {"conv2_2": 1.0}


def directional(gradient, direction):
    return jnp.vdot(gradient, direction)


TRANSFORMATIONS = {
    "grad": lambda f, x, v: directional(jax.grad(f)(x), v),
    "jit(grad)": lambda f, x, v: directional(jax.jit(jax.grad(f))(x), v),
    "vmap(grad)": lambda f, x, v: directional(jax.vmap(jax.grad(f))(x[None])[0], v),
    "checkpoint": lambda f, x, v: directional(jax.grad(jax.checkpoint(f))(x), v),
    "jvp": lambda f, x, v: jax.jvp(f, (x,), (v,))[1],
    "linearize": lambda f, x, v: jax.linearize(f, x)[1](v),
    "jacfwd": lambda f, x, v: jax.jacfwd(lambda a: f(x + a * v))(0.0),
}
"""Each returns the derivative along a direction. All but ``grad`` run inside ``jit``."""

SECOND_ORDER = {
    "reverse over reverse": lambda f, x, v: jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v))(x),
    "forward over reverse": lambda f, x, v: jax.jvp(jax.grad(f), (x,), (v,))[1],
    "hessian": lambda f, x, v: jax.hessian(lambda a: f(x + a * v))(0.0) * v / jnp.vdot(v, v),
}
"""Each returns the Hessian times a direction, the last one its part along the direction."""


def table():
    """The documented rows: transformation, works with loaded, works with prepared parameters."""
    rows = re.findall(r"^\| `?([^|`]+)`? \| (yes|no) \| (yes|no) \|$", PAGE.read_text(), re.M)
    return {name.strip(): {"loaded": a == "yes", "prepared": b == "yes"} for name, a, b in rows}


@pytest.fixture(scope="module")
def problem(vgg16, face, cat):
    content, style = face[:32, :32], cat[:32, :32]
    direction = jax.random.normal(jax.random.key(0), content.shape)

    def of(params, dtype=jnp.float32):
        cast = lambda x: x.astype(dtype)  # noqa: E731
        targets = make_targets(
            params, cast(content), [cast(style)], content_layers=[*CONTENT], style_layers=[*LAYERS]
        )
        weights = LossWeights(1.0, 1.0, 0.1, CONTENT, LAYERS)
        image = cast(style * 0.5 + 0.25)
        return lambda x: loss(x, params, targets, weights)[0], image, cast(direction)

    return of


@pytest.fixture(scope="module")
def parameters(vgg16):
    return {"loaded": vgg16, "prepared": prepare_params(vgg16, "float32", [*CONTENT, *LAYERS])}


@pytest.fixture(scope="module")
def differences(problem, vgg16):
    """The first and the second derivative along the direction in float64, by differences."""
    jax.config.update("jax_enable_x64", True)
    try:
        params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), vgg16)
        f, x, v = problem(params, jnp.float64)
        value_and_grad = jax.jit(jax.value_and_grad(f))
        (low, low_gradient), (high, high_gradient) = (
            value_and_grad(x + h * v) for h in (-1e-6, 1e-6)
        )
        assert low.dtype == low_gradient.dtype == jnp.float64
        slope = (high - low) / 2e-6
        np.testing.assert_allclose(directional(value_and_grad(x)[1], v), slope, rtol=1e-6)
        return float(slope), float(directional(high_gradient - low_gradient, v) / 2e-6)
    finally:
        jax.config.update("jax_enable_x64", False)


def attempt(works, run):
    if works:
        return run()
    with pytest.raises(TypeError, match="custom_vjp"):
        run()
    return None


@pytest.mark.parametrize("form", ["loaded", "prepared"])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_first_derivatives_agree_with_float64_differences(
    name, form, problem, parameters, differences
):
    f, x, v = problem(parameters[form])

    def derivative_of(x, v):
        return TRANSFORMATIONS[name](f, x, v)

    run = derivative_of if name == "grad" else jax.jit(derivative_of)
    derivative = attempt(table()[name][form], lambda: run(x, v))
    if derivative is not None:
        np.testing.assert_allclose(derivative, differences[0], rtol=1e-4)


@pytest.mark.parametrize("form", ["loaded", "prepared"])
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_derivatives_agree_with_float64_differences(
    name, form, problem, parameters, differences
):
    f, x, v = problem(parameters[form])

    def curvature(x, v):
        return directional(SECOND_ORDER[name](f, x, v), v)

    actual = attempt(table()[name][form], lambda: jax.jit(curvature)(x, v))
    if actual is not None:
        np.testing.assert_allclose(actual, differences[1], rtol=1e-3)


def test_each_documented_row_is_tested():
    assert {*table()} == {*TRANSFORMATIONS, *SECOND_ORDER, *MESHES}


MESHES = ("shard_map", "automatic sharding", "explicit mesh axes", "float64")

SCRIPT = """
import json
import sys
import traceback
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from nst_jax import LossWeights, loss, make_targets, prepare_params, weights

params = jax.tree.map(jnp.asarray, weights.load_pretrained("vgg16").params)
if sys.argv[1] == "prepared":
    params = prepare_params(params, "float32", ["conv2_2"])
w = LossWeights(1.0, 1.0, 0.1, {"conv2_2": 1.0}, {"relu1_1": 0.4, "relu2_1": 0.6})
gradient = lambda x, p, t: jax.vmap(jax.grad(lambda x: loss(x, p, t, w)[0]))(x)


def problem(params):
    random = np.random.default_rng(0)
    dtype = params["conv1_1"]["kernel"].dtype
    image, content, style = (jnp.asarray(random.uniform(size=s), dtype) for s in
                             ((4, 16, 16, 3), (16, 16, 3), (16, 16, 3)))
    return image, params, jax.jit(lambda params: make_targets(
        params, content, [style], content_layers=["conv2_2"], style_layers=["relu1_1", "relu2_1"])
    )(params)


def on_mesh(name, image, params, targets):
    mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))
    if name == "shard_map":
        sharded = jax.shard_map(gradient, mesh=mesh, in_specs=(P("b"), P(), P()), out_specs=P("b"))
        return jax.jit(sharded)(image, params, targets)
    if name == "automatic sharding":
        image = jax.device_put(image, NamedSharding(mesh, P("b")))
        return jax.jit(gradient)(image, params, targets)
    mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        image = jax.device_put(image, NamedSharding(mesh, P("b")))
        return jax.jit(gradient)(image, params, targets)


def check(name):
    actual = on_mesh(name, *problem(params))
    assert len(actual.sharding.device_set) == 4
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-3, atol=1e-6)


def check_float64():
    jax.config.update("jax_enable_x64", True)
    args = problem(jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params))
    actual = jax.jit(gradient)(*args)
    assert actual.dtype == jnp.float64
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-3, atol=1e-6)


expected = np.asarray(jax.jit(gradient)(*problem(params)))
results = {}
for name in ("shard_map", "automatic sharding", "explicit mesh axes", "float64"):
    try:
        check_float64() if name == "float64" else check(name)
        results[name] = "works"
    except Exception:
        results[name] = traceback.format_exc()
print(json.dumps(results))
"""


@pytest.mark.parametrize("form", ["loaded", "prepared"])
def test_gradients_on_a_mesh_of_four_devices_agree_with_one(form, folder, monkeypatch):
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    monkeypatch.setenv("XLA_FLAGS", flags)
    done = subprocess.run([sys.executable, "-c", SCRIPT, form], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert {*results} == {*MESHES}
    for name, result in results.items():
        assert (result == "works") == table()[name][form], result
