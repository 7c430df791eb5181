"""The package as a user meets it after ``import nst_jax``."""

import ast
import doctest
import inspect
import itertools
import os
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nst_jax
from nst_jax.errors import InputError
from nst_jax.losses.statistics import make_statistic
from nst_jax.settings import Settings, SettingsOverrides

LAYERS = {"relu1_1": 1.0}


@pytest.fixture(scope="module")
def small(vgg16, face, cat):
    targets = nst_jax.make_targets(
        vgg16, face[:16, :16], [cat[:16, :16]], content_layers=[*LAYERS], style_layers=[*LAYERS]
    )
    weights = nst_jax.LossWeights(1.0, 1.0, 0.0, LAYERS, LAYERS)
    return face[:16, :16], targets, weights


def test_the_version_is_that_of_the_installed_package():
    assert nst_jax.__version__ == version("nst-jax")


@pytest.mark.parametrize("name", nst_jax.__all__)
def test_each_public_name_is_an_attribute_after_import(name):
    assert getattr(nst_jax, name) is not None


def test_the_help_of_the_package_lists_each_public_name_once():
    listed = re.findall(r"^- `(\w+)`: \w.*$", nst_jax.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(nst_jax.__all__)
    assert dir(nst_jax) == sorted([*nst_jax.__all__, "__version__", "errors"])
    assert nst_jax.__doc__.splitlines()[3] in pydoc.render_doc(nst_jax, renderer=pydoc.plaintext)


@pytest.mark.extended
def test_a_type_checker_knows_the_public_names_and_no_others(tmp_path):
    right = ["nst_jax.losses.statistics.Gram()", "nst_jax.weights.load_pretrained()"]
    right += [f"nst_jax.{name}" for name in (*nst_jax.__all__, "__version__", "errors")]
    wrong = ["nst_jax.minimise", "nst_jax.LossWeight", "nst_jax.losses.Grams"]
    path = tmp_path / "names.py"
    path.write_text("\n".join(["import nst_jax", *(f"print({text})" for text in right + wrong)]))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(path)]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    checked = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    lines = [int(line) for line in re.findall(r"names\.py:(\d+):\d+ - error", checked.stdout)]
    assert lines == [len(right) + 2 + i for i in range(len(wrong))], checked.stdout


MODULES = [
    "nst_jax",
    "nst_jax.images",
    "nst_jax.losses",
    "nst_jax.losses.statistics",
    "nst_jax.networks",
    "nst_jax.networks.weights",
    "nst_jax.optimize",
    "nst_jax.partitioning",
    "nst_jax.pipeline",
]
PUBLIC = {
    f"{module}.{name}": getattr(import_module(module), name)
    for module in MODULES
    for name in import_module(module).__all__
}
CALLABLE = {
    value.__qualname__: value
    for value in PUBLIC.values()
    if inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value))
}
SHOWN_BY = {  # what a function returns is in the example of the function
    "Ema": "init_state",
    "FolderItem": "stylize_folder",
    "LbfgsState": "preconditioned_lbfgs",
    "Chunk": "optimize_chunks",
    "Job": "run",
    "LoadedParams": "load_params",
    "MinimizeResult": "minimize",
    "Progress": "run",
    "Result": "stylize",
    "State": "init_state",
    "Targets": "make_targets",
    "VerifyReport": "verify",
    "Weights": "load_pretrained",
}
WITHOUT_EXAMPLE = {
    "DivergedError": "it is raised, not called",
    "InputError": "it is raised, not called",
    "MemoryLimitError": "it is raised, not called",
    "OutOfMemoryError": "it is raised, not called",
    "download": "it needs a network",
}


def has_own_docstring(value):
    return inspect.ismodule(value) or inspect.isclass(value) or value in CALLABLE.values()


@pytest.mark.parametrize("name", [name for name in PUBLIC if has_own_docstring(PUBLIC[name])])
def test_each_public_name_has_a_docstring(name):
    doc = inspect.getdoc(PUBLIC[name])
    assert doc
    assert not doc.startswith(f"{name.rpartition('.')[2]}(")  # what Python makes for dataclasses


def documented_constants(path):
    """The names of a module whose assignments have a docstring below them."""
    body = ast.parse(path.read_text()).body
    for node, below in itertools.pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if is_text and isinstance(node, ast.Assign | ast.AnnAssign):
            yield from map(ast.unparse, getattr(node, "targets", [getattr(node, "target", node)]))


def test_each_constant_and_alias_has_a_docstring_in_the_source():
    constants = {n.rpartition(".")[2] for n, x in PUBLIC.items() if not has_own_docstring(x)}
    assert {"PAPER", "FORMATS", "ImageSource"} < constants
    sources = Path(nst_jax.__file__).parent.rglob("*.py")
    assert constants <= {name for path in sources for name in documented_constants(path)}


def examples(value):
    return doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")


def test_each_function_and_class_has_an_example():
    assert len(CALLABLE) > 80
    without = {name for name, value in CALLABLE.items() if not examples(value)}
    assert without == {*SHOWN_BY, *WITHOUT_EXAMPLE}
    assert not without & set(SHOWN_BY.values())


def test_overrides_name_the_settings_with_their_types():
    overrides = {n: t.__forward_arg__ for n, t in SettingsOverrides.__annotations__.items()}
    assert overrides == Settings.__annotations__


def test_a_misspelled_setting_is_refused():
    with pytest.raises(InputError, match="there is no setting 'stepz'"):
        nst_jax.stylize("a.jpg", "b.jpg", stepz=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", ["stylize", "stylize_many", "interpolate_styles"])
def test_signatures_are_short(name):
    assert len(str(inspect.signature(getattr(nst_jax, name)))) < 600


def test_representations_are_short(small, vgg16):
    image, targets, weights = small
    loss_weights = (vgg16, targets, weights)
    result = nst_jax.minimize(
        nst_jax.loss, np.asarray(image), loss_weights, optimizer=optax.sgd(0.1), steps=1
    )
    loaded = nst_jax.weights.load_pretrained("vgg16")
    for value in (targets, result, result.state, loaded):
        assert len(repr(value)) < 300


def test_targets_go_through_export(small, vgg16):
    image, targets, weights = small

    @jax.jit
    def total(image, targets):
        return nst_jax.loss(image, vgg16, targets, weights)[0]

    exported = jax.export.export(total)(image, targets)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(again.call(image, targets), total(image, targets))


BAD_IMAGES = {
    "a batch": (lambda x: x[None], r"shape \(1, 16, 16, 3\); give one \(h, w, 3\), and jax.vmap"),
    "gray": (lambda x: x[..., 0], r"shape \(16, 16\); give RGB"),
    "RGBA": (lambda x: jnp.concatenate([x, x[..., :1]], -1), r"\(16, 16, 4\); give RGB"),
    "bytes": (lambda x: (x * 255).astype(jnp.uint8), "dtype uint8; give floats in"),
}


@pytest.mark.parametrize(("change", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_an_image_of_another_shape_or_dtype_is_refused(small, vgg16, unchecked, change, message):
    image, targets, weights = small
    bad = change(image)
    with pytest.raises(InputError, match=message):
        jax.jit(nst_jax.loss)(bad, vgg16, targets, weights)
    with pytest.raises(InputError, match=message):
        nst_jax.make_targets(vgg16, styles=[bad], style_layers=[*LAYERS])


def test_one_style_without_a_list_is_refused(small, vgg16, unchecked):
    with pytest.raises(InputError, match="give a list of images"):
        nst_jax.make_targets(vgg16, styles=small[0], style_layers=[*LAYERS])


def squares(image):
    return jnp.square(image).sum()


BAD_LOSSES = {
    "no terms": (squares, "must return .total, terms."),
    "a vector": (lambda image: (squares(image), {"a": image}), "returns a of shape"),
}


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.lbfgs()], ids=["sgd", "lbfgs"])
@pytest.mark.parametrize(("loss", "message"), BAD_LOSSES.values(), ids=BAD_LOSSES)
def test_a_loss_without_scalar_terms_is_refused(loss, message, optimizer):
    with pytest.raises(InputError, match=message):
        nst_jax.minimize(loss, jnp.zeros((2, 2, 3)), optimizer=optimizer, steps=1)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"image": "photo.jpg"}, "has a str; give arrays"),
        (np.zeros((2, 2, 3), np.uint8), "dtype uint8; give floats"),
    ],
)
def test_a_start_that_is_no_float_array_is_refused(start, message):
    with pytest.raises(InputError, match=message):
        nst_jax.minimize(lambda x: (squares(x), {}), start, optimizer=optax.sgd(0.1), steps=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
        optax.lookahead(optax.sgd(0.1), 2, 0.5),
    ],
    ids=["sam", "lookahead"],
)
def test_an_optimizer_that_needs_more_than_an_array_is_refused_in_one_line(optimizer):
    with pytest.raises(InputError, match="cannot update the start") as caught:
        nst_jax.minimize(
            lambda x: (squares(x), {}), jnp.zeros((2, 2, 3)), optimizer=optimizer, steps=1
        )
    assert "\n" not in str(caught.value)


FLAT = np.zeros((4, 4, 3), np.float32)
OTHER_MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))


def count(image, *args):
    return image.sum(), {}


def minimize_batch(images, colors):
    nst_jax.minimize_batch(count, images, colors, optimizer=optax.sgd(0.1), steps=1)


def optimize_from(start):
    level = nst_jax.optimize.Level((8, 8), 1, count)
    next(nst_jax.optimize.optimize_multiscale([level], start, optimizer=optax.sgd(0.1)))


BAD_ARGUMENTS = {
    "a mesh without devices": (
        lambda: nst_jax.partitioning.make_mesh([], 64),
        "there are no devices for the mesh; give some of jax.devices()",
    ),
    "a mesh of other axes": (
        lambda: nst_jax.partitioning.shard_image(FLAT, OTHER_MESH),
        "the mesh has the axes x and none named rows",
    ),
    "a batch on a mesh of other axes": (
        lambda: nst_jax.partitioning.shard_batch(FLAT, OTHER_MESH),
        "the mesh has the axes x and none named images",
    ),
    "a model": (lambda: nst_jax.networks.conv_names("vgg11"), "model is 'vgg11'; choose one of"),
    "a layer": (lambda: nst_jax.networks.num_poolings("fc6"), "unknown layer 'fc6'; give a name"),
    "a color mode": (
        lambda: nst_jax.images.apply_color_mode("gray", FLAT, None, [FLAT]),
        "color_mode is 'gray'; choose one of style, luminance, match, histogram",
    ),
    "a shape": (lambda: nst_jax.images.resize(FLAT, (0, 4)), r"shape is \(0, 4\); give a height"),
    "a dtype of a weight file": (
        lambda: nst_jax.weights.save("a.safetensors", {}, dtype="int8"),
        "dtype is 'int8'; choose float32 or float16",
    ),
    "a style loss": (lambda: make_statistic("grams"), "style_loss is 'grams'; choose one of gram,"),
    "no style loss": (lambda: make_statistic({}), "style_loss is empty; name at least one"),
    "a normalization": (lambda: nst_jax.losses.Gram("l2"), "normalization is 'l2'; choose one of"),
    "one path": (lambda: nst_jax.list_images("photos"), "'photos' is one path; give a list"),
    "a share": (
        lambda: next(nst_jax.stylize_folder([], [], ".", worker=(2, 2))),
        "there is no worker of rank 2 among 2; count from 0",
    ),
    "another number of batched arguments": (
        lambda: minimize_batch(np.stack([FLAT, FLAT]), np.zeros(3)),
        r"batched_args has an array of shape \(3,\) in a batch of 2; give it a leading axis",
    ),
    "one image with batched arguments": (
        lambda: minimize_batch(FLAT, np.zeros(3)),
        r"batched_args has an array of shape \(3,\) in a batch of 4",
    ),
    "a start of another size": (
        lambda: optimize_from(FLAT),
        r"the start has the shape \(4, 4, 3\) and the first level \(8, 8\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_a_bad_argument_is_refused_in_one_line(unchecked, call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_paths_may_be_texts(tmp_path):
    nst_jax.images.write(tmp_path / "a.png", FLAT)
    assert nst_jax.list_images([str(tmp_path)]) == [tmp_path / "a.png"]
    (item,) = nst_jax.stylize_folder([f"{tmp_path}/a.png"], [f"{tmp_path}/no.png"], tmp_path)
    assert isinstance(item.error, InputError)
