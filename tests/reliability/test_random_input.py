"""Random bytes and texts where files and options are expected: what no table holds."""

from pathlib import Path

import pytest
from apps.helpers import STYLIZE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reliability import hostile_images, hostile_weights
from reliability.hostile import assert_clear, attempt, refusal

from nst_jax import Settings, images, weights
from nst_jax.apps.studio import reproduce

pytestmark = [
    pytest.mark.usefixtures("photo_folder"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]

FEW = settings(
    max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MANY = settings(FEW, max_examples=3000, derandomize=False)
IMAGE_STARTS = [hostile_images.photo(name)[:16] for name in hostile_images.FORMATS]
WEIGHT_STARTS = [
    b"\x89HDF\r\n\x1a\n",
    b"PK\x03\x04",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    b"\x20\0\0\0\0\0\0\0{",
]
OPTIONS = [
    *("--min-size", "--steps", "--content-weight", "--style-weights", "--style-scales"),
    *("--style-layers", "--style-loss", "--mask-colors", "--memory-limit", "--devices", "--seed"),
    *(
        "--ema-decay",
        "--learning-rate",
        "--init",
        "--weights",
        "--mask",
        "--shard",
        "--coordinator",
    ),
]
junk = st.text(st.characters(exclude_characters="\0"), max_size=20)
numbers = st.one_of(st.integers(), st.floats()).map(str)
lists = st.lists(st.one_of(numbers, st.sampled_from(["relu1_1", "gram", "red"]), junk), max_size=4)
texts = st.one_of(junk, numbers, lists.map(",".join), lists.map(":".join))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["relu1_1", "gram", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
metadata = st.dictionaries(st.sampled_from(list(Settings.__dataclass_fields__)), values, max_size=4)


def image(data):
    Path("random.png").write_bytes(data)
    refusal(images.read, "random.png")
    refusal(images.read_metadata, "random.png")


def weight_file(data):
    Path("random").write_bytes(data)
    assert refusal(weights.load, "random")


def options(words):
    flat = [word for pair in words for word in pair]
    assert_clear(attempt(*STYLIZE, "-o", "out.png", *flat))


def settings_inside(found):
    refusal(reproduce.parse_metadata, found)


def files(starts):
    return st.builds(bytes.__add__, st.sampled_from([b"", *starts]), st.binary(max_size=200))


pairs = st.lists(st.tuples(st.sampled_from(OPTIONS), texts), min_size=1, max_size=3)
SUBJECTS = {
    "image": (image, files(IMAGE_STARTS)),
    "weights": (weight_file, files(WEIGHT_STARTS)),
    "options": (options, pairs),
    "settings": (settings_inside, metadata),
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_random_input_is_taken_or_refused(subject, stops_at_start):
    check, strategy = SUBJECTS[subject]
    FEW(given(strategy)(check))()


@pytest.mark.campaign
@pytest.mark.parametrize("subject", SUBJECTS)
def test_much_random_input_is_taken_or_refused(subject, stops_at_start):
    check, strategy = SUBJECTS[subject]
    MANY(given(strategy)(check))()


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(100, 400))
def test_files_with_bytes_changed_are_taken_or_refused(seed):
    for data in hostile_images.flipped(seed).values():
        image(data)
    for write in hostile_weights.BASES.values():
        hostile_weights.flip(seed, write, Path("random"))
        refusal(weights.load, "random")
