"""Terms of the user's own in the loss: value, gradient, weights, arrays, and what is refused."""

from dataclasses import dataclass, replace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from losses.example_terms import Contrast, Declared, Guide, Peak, Temporal

import nst_jax
from nst_jax import InputError, LossWeights, Settings, Term, loss, make_targets

LAYERS = {"relu1_1": 1.0}


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


IMAGE = noise(24, 16, 3)
ARRAYS = {"temporal": {"previous": noise(24, 16, 3, seed=1), "mask": noise(24, 16, 1, seed=2)}}


def temporal(image=IMAGE, arrays=ARRAYS, weight=2.0):
    """The loss of pixels alone, for which the network does not run."""
    targets = make_targets({}, terms=[Temporal()], arrays=arrays)
    return loss(image, {}, targets, LossWeights(terms={"temporal": weight}))


def test_a_term_counts_by_its_weight_and_is_returned_before_it():
    total, terms = temporal()
    image, previous, mask = (np.asarray(x, float) for x in (IMAGE, *ARRAYS["temporal"].values()))
    expected = (mask * (image - previous) ** 2).sum() / (24 * 16)
    np.testing.assert_allclose(terms["temporal"], expected, rtol=1e-5)
    np.testing.assert_allclose(total, 2 * expected, rtol=1e-5)
    gradient = jax.grad(lambda x: temporal(x)[0])(IMAGE)
    np.testing.assert_allclose(gradient, 4 * mask * (image - previous) / (24 * 16), rtol=1e-4)


def test_a_term_without_a_weight_weighs_1():
    targets = make_targets({}, terms=[Contrast()])
    total, terms = loss(IMAGE, {}, targets, LossWeights())
    np.testing.assert_allclose(total, (float(IMAGE.std()) - 0.2) ** 2, rtol=1e-5)
    assert set(terms) == {"content", "style", "tv", "contrast"}


def test_a_term_reads_layers_beside_content_and_style(vgg16):
    options = {"content_layers": ["relu1_1"], "style_layers": ["relu1_1"]}
    features = nst_jax.VGG().features(vgg16, IMAGE, ["relu1_1", "relu2_1"])
    arrays = {"mask": IMAGE[..., 0], "relu2_1": 0.5 * features["relu2_1"], "color": jnp.ones(64)}
    targets = make_targets(
        vgg16, IMAGE, [IMAGE], **options, terms=[Guide(), Peak()], arrays={"guide": arrays}
    )
    weights = LossWeights(0.5, 1, 0, LAYERS, LAYERS, {"guide": 3.0, "peak": 0.0})
    total, terms = loss(IMAGE[::-1], vgg16, targets, weights)
    features = nst_jax.VGG().features(vgg16, IMAGE[::-1], ["relu1_1", "relu2_1"])
    weighted = IMAGE[..., :1] * features["relu1_1"] * IMAGE[::-1][..., :1]
    deep = np.square(features["relu2_1"] - arrays["relu2_1"]).sum() / (12 * 8)
    guide = np.square(1 - weighted.sum((0, 1)) / (24 * 16)).sum() + deep
    np.testing.assert_allclose(terms["guide"], guide, rtol=1e-4)
    peak = jnp.square(features["relu1_1"].max((0, 1))).mean()
    np.testing.assert_allclose(terms["peak"], peak, rtol=1e-4)
    expected = 0.5 * terms["content"] + terms["style"] + 3 * terms["guide"]
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_new_arrays_weights_and_equal_terms_need_no_compilation():
    jitted = jax.jit(loss)
    totals = []
    for scale in (1.0, 0.5):
        arrays = jax.tree.map(lambda x, scale=scale: scale * x, ARRAYS)
        targets = make_targets({}, terms=[Temporal()], arrays=arrays)
        total, _ = jitted(IMAGE, {}, targets, LossWeights(terms={"temporal": scale}))
        totals.append(float(total))
    assert jitted._cache_size() == 1
    assert totals[0] != totals[1]


def test_arrays_have_axes_of_their_own_in_vmap():
    both = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), ARRAYS)
    totals = jax.vmap(lambda arrays: temporal(arrays=arrays)[0])(both)
    np.testing.assert_allclose(totals[0], temporal()[0], rtol=1e-6)
    assert totals[0] != totals[1]


def test_a_short_text_names_the_terms():
    targets = make_targets({}, terms=[Temporal(), Contrast(0.25)], arrays=ARRAYS)
    assert "Temporal(); Contrast(wanted=0.25, name='contrast')" in repr(targets)
    assert "\n" not in repr(targets)


def test_profiles_show_the_names_of_terms_and_layers(vgg16):
    options = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1"]}
    targets = make_targets(
        vgg16, IMAGE, [IMAGE], **options, terms=[Temporal(), Peak()], arrays=ARRAYS
    )
    weights = LossWeights(content_layers={"relu2_1": 1.0}, style_layers=LAYERS)
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    text = gradient.lower(IMAGE, vgg16, targets, weights).as_text(debug_info=True)
    names = ("conv1_1", "conv2_1", "content/relu2_1", "style/relu1_1", "tv", "temporal", "peak")
    for name in names:
        assert f"jvp({name})" in text, name
        assert f"transpose(jvp({name}))" in text, name


# --- refusals ------------------------------------------------------------------------------------


class NotADataclass(Temporal):
    pass


@dataclass
class CanChange(Term):
    name = "mean"


@dataclass(frozen=True)
class HoldsAnArray(Temporal):
    previous: object = None


@dataclass(frozen=True)
class WithoutValue(Term):
    name = "mean"

    def measure(self, image, features, target):
        return image.mean()


@dataclass(frozen=True)
class Vector(WithoutValue):
    def value(self, measured, num_positions, target):
        return jnp.ones(3) * measured


@dataclass(frozen=True)
class NoNumber(WithoutValue):
    def value(self, measured, num_positions, target):
        return {"mean": measured}


@dataclass(frozen=True)
class OneLayer(Peak):
    layers = "relu1_1"


@dataclass(frozen=True)
class Undecided(Peak):
    additive = None


BAD_TERMS = {
    "no list": (Temporal(), "terms is Temporal(); give a list of nst_jax.Term"),
    "a class": ([Temporal], "the term is the class Temporal; give an instance, Temporal()"),
    "a function": ([len], "the term is <built-in function len>; give an instance of a subclass"),
    "no dataclass": ([NotADataclass()], "can change; write @dataclass(frozen=True)"),
    "not frozen": ([CanChange()], "can change; write @dataclass(frozen=True)"),
    "an array": ([HoldsAnArray(np.ones(3))], "cannot be hashed; give its fields numbers"),
    "no value": ([WithoutValue()], "has no method value; define it"),
    "a reserved name": ([Contrast(name="style")], "the name 'style' of the term"),
    "no name": ([Contrast(name="mean color")], "has the name 'mean color'; give a name such as"),
    "a name twice": ([Contrast(0.1), Contrast(0.2)], "two terms have the name 'contrast'"),
    "one layer": ([OneLayer()], "layers of the term peak is 'relu1_1'; give a tuple of names"),
    "undecided": ([Undecided()], "additive None; give a tuple of names, and True or False"),
}


@pytest.mark.parametrize(("terms", "message"), BAD_TERMS.values(), ids=BAD_TERMS)
def test_a_bad_term_is_refused_at_the_door(unchecked, terms, message):
    for use in (lambda: make_targets({}, terms=terms), lambda: Settings(terms=terms)):
        with pytest.raises(InputError) as caught:
            use()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: make_targets({}, arrays={"a": IMAGE}), "arrays has 'a' and the terms are none"),
        (lambda: make_targets({}, arrays=np.ones(3)), "arrays is array([1., 1., 1.]); give a dict"),
        (
            lambda: temporal(arrays={"temporal": {"mask": "m.png"}}),
            "the arrays of the term temporal are {'mask': 'm.png'}; give a pytree of arrays",
        ),
        (lambda: Settings(term_weights={"a": 1}), "term_weights has 'a' and the terms are none"),
        (
            lambda: Settings(terms=[Contrast()], term_weights={"contrast": -1}),
            "term_weights is {'contrast': -1}; give names of terms with their weights",
        ),
        (
            lambda: loss(IMAGE, {}, make_targets({}), LossWeights(terms={"a": 1.0})),
            "the weights of the loss has 'a' and the terms are none",
        ),
        (
            lambda: loss(IMAGE, {}, make_targets({}, terms=[Vector()]), LossWeights()),
            "the value of the term mean is of shape (3,); return a scalar array",
        ),
        (
            lambda: loss(IMAGE, {}, make_targets({}, terms=[NoNumber()]), LossWeights()),
            "the value of the term mean is a dict; return a scalar array",
        ),
        (lambda: temporal(arrays={}), "the term temporal cannot be computed (KeyError: 'mask')"),
        (lambda: temporal(IMAGE[:16]), "its arrays have the shapes {\"['mask']\": (24, 16, 1),"),
    ],
)
def test_what_does_not_fit_the_terms_is_refused_in_one_line(unchecked, use, message):
    with pytest.raises(InputError) as caught:
        use()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"previous": IMAGE}, "the array mask of the term temporal is missing"),
        (
            {"previous": IMAGE[:8], "mask": IMAGE},
            "the array previous of the term temporal has the shape (8, 16, 3); give one of the "
            "image's height and width, (24, 16)",
        ),
    ],
)
def test_a_spatial_array_of_another_size_is_refused_by_its_name(arrays, message):
    targets = make_targets({}, terms=[Declared()], arrays={"temporal": arrays})
    with pytest.raises(InputError) as caught:
        loss(IMAGE, {}, targets, LossWeights())
    assert message in str(caught.value)


def test_targets_with_own_terms_are_not_serialized():
    targets = make_targets({}, terms=[Contrast()])
    exported = jax.export.export(jax.jit(lambda x, t: loss(x, {}, t, LossWeights())[0]))
    with pytest.raises(NotImplementedError, match="your own terms, such as Contrast"):
        exported(IMAGE, targets).serialize()
    plain = exported(IMAGE, replace(targets, terms=()))
    assert len(plain.serialize()) > 0
