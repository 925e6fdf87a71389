"""Areas and intersections, compiled and not, against pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdqe.annotations.reader import Track
from mdqe.evaluation import overlap
from mdqe.results import rle
from mdqe.results.rle import compiled_library

IMPLEMENTATIONS = [
    overlap._compute,
    pytest.param(
        overlap._compute_compiled,
        marks=pytest.mark.skipif(compiled_library() is None, reason="the library _C_rle was not built"),
    ),
]


@st.composite
def groups(draw):
    """Masks (N, T, H, W), some of them absent, and how many of the tracks are results."""
    shape = draw(st.tuples(*(st.integers(1, most) for most in (5, 3, 9, 9))))
    masks = draw(hnp.arrays(bool, shape))
    return masks, draw(hnp.arrays(bool, shape[:2])), draw(st.integers(0, shape[0]))


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@settings(max_examples=200, deadline=None)
@given(group=groups(), plain=st.booleans())
def test_equals_pixels(compute, group, plain):
    masks, present, results = group
    size = masks.shape[2:]
    masks[~present] = False
    counts = rle.encode(masks[present])
    if plain:
        counts[::2] = [rle.run_lengths([one], size)[0].tolist() for one in counts[::2]]
    places = np.flatnonzero(present)
    areas, shared = compute(counts, places, size, (results, len(masks) - results, masks.shape[1]))
    assert np.array_equal(areas, masks.sum(axis=(2, 3)))
    expected = (masks[:results, None] & masks[None, results:]).sum(axis=(3, 4))
    assert shared.dtype == np.int64 and np.array_equal(shared, expected)


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
def test_large_masks(compute):
    random = np.random.default_rng(0)
    y, x = np.mgrid[:360, :640]
    masks = np.stack([(y - random.uniform(0, 360)) ** 2 + (x - random.uniform(0, 640)) ** 2 < 9e3 for _ in range(12)])
    masks ^= random.random(masks.shape) < 0.001
    areas, shared = compute(rle.encode(masks), np.arange(12), (360, 640), (4, 2, 2))
    assert np.array_equal(areas.ravel(), masks.sum(axis=(1, 2)))
    pairs = masks.reshape(6, 2, 360, 640)
    assert np.array_equal(shared, (pairs[:4, None] & pairs[None, 4:]).sum(axis=(3, 4)))


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "counts", ["", "6", "62<1", "62<0", "6\x7f", "62|", "oooooooooo0", "ooooooooooooooooooo", "`0", "é"]
)
def test_damage_is_found(compute, counts):
    good = rle.encode(np.ones((1, 4, 5), bool))[0]
    with pytest.raises(ValueError):
        compute([good, counts], np.arange(2), (4, 5), (1, 1, 1))


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@settings(max_examples=500, deadline=None)
@given(text=st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_both_take_the_same_for_damaged(compute, text):
    """As `rle.run_lengths` does, which is tested by itself."""

    def taken(call):
        try:
            call()
        except ValueError:
            return False
        return True

    size = (2, 3)
    assert taken(lambda: compute([text], np.arange(1), size, (1, 0, 1))) == taken(lambda: rle.run_lengths([text], size))


def test_the_error_names_the_record():
    good = Track("result 0", 1, [None, rle.encode(np.ones((1, 4, 5), bool))[0]])
    bad = Track("result 1", 1, ["62", None])
    with pytest.raises(
        ValueError, match=r'^r.json: result 1: "segmentations" in frame 0: counts cover 8 pixels; size 4 x'
    ):
        overlap.overlap(("r.json", [good, bad]), ("a.json", [good]), (4, 5), 2)


@pytest.mark.skipif(compiled_library() is None, reason="the library _C_rle was not built")
def test_the_compiled_library_can_be_switched_off():
    code = "from mdqe.results.rle import compiled_library; print(compiled_library())"
    environment = {"MDQE_DISABLE_EXT": "1", "PYTHONPATH": str(Path(overlap.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
