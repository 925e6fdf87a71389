"""`mdqe.Linker` where objects are partly visible: at the border of the frame, and behind other objects."""

import numpy as np
import pytest

import mdqe
from mdqe.inference.frame_masks import read_masks
from mdqe.inference.motion import Motion, free_offset
from mdqe.results import rle

SIZE = (100, 160)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """A disc (H, W), also beyond the border of the frame."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def visible(*shapes: np.ndarray) -> np.ndarray:
    """Shapes from the nearest to the farthest, without what nearer ones hide: (D, H, W)."""
    free, parts = np.ones(SIZE, bool), []
    for shape in shapes:
        parts.append(shape & free)
        free = free & ~shape
    return np.stack(parts)


def identities(frames: list[np.ndarray], **values: list[np.ndarray]) -> list[set[int]]:
    """The ids of each object over the frames (D, H, W), of which empty masks are not given.

    Args:
        values: of `Linker.push`, for each frame one for each object.
    """
    linker, found = mdqe.Linker(), [set() for _ in frames[0]]
    for t, masks in enumerate(frames):
        kept = np.flatnonzero(masks.any(axis=(1, 2)))
        given = {name: value[t][kept] for name, value in values.items()}
        for one, track in zip(kept, linker.push(masks[kept], **given).tolist(), strict=True):
            found[one].add(track)
    return found


@pytest.mark.parametrize("speed", [3, 7, 11])
def test_an_object_enters_the_frame(speed):
    """At first a few pixels are visible. Its area grows by a factor of up to 40 between two frames."""
    frames = [visible(disc(speed * t - 20, 50, 21)) for t in range(100 // speed)]
    assert frames[0].sum() < 30
    assert identities(frames) == [{0}]


@pytest.mark.parametrize("absence", [3, 8, 14])
def test_an_object_leaves_the_frame_and_returns_at_the_same_border(absence):
    x = [*range(60, -22, -6), *[-40] * absence, *range(-20, 60, 6)]
    frames = [visible(disc(place, 40 + 0.5 * t, 21)) for t, place in enumerate(x)]
    empty = [not masks.any() for masks in frames]
    assert sum(empty) >= absence and not empty[0] and not empty[-1]
    assert identities(frames) == [{0}]


def test_a_sliver_beside_an_object_belongs_to_the_one_that_is_behind():
    """A crescent of ever fewer pixels, and then of ever more."""
    shifts = [30, 24, 18, 13, 9, 6, 5, 5, 6, 9, 13, 18, 24, 30]
    frames = [visible(disc(60 + 2 * t, 50, 20), disc(60 + 2 * t + shift, 50, 16)) for t, shift in enumerate(shifts)]
    assert min(masks[1].sum() for masks in frames) < 40
    assert identities(frames) == [{0}, {1}]


def test_look_alikes_cross_behind_an_object():
    """Two equal discs pass each other behind a larger one, where each is a crescent for some frames."""
    frames = [
        visible(disc(80, 50, 22), disc(38 + 6 * t, 44, 14), disc(122 - 6 * t, 58, 14)) for t in range(15)
    ]  # fmt: skip
    assert identities(frames) == [{0}, {1}, {2}]


@pytest.mark.parametrize(("beside", "expected"), [(True, {1}), (False, {1, 2})])
def test_a_hidden_object_appears_on_the_other_side_of_the_one_that_hides_it(beside, expected):
    """Farther away than objects move otherwise. A piece that nothing cuts is another object."""
    large = disc(80, 50, 34)
    frames = [visible(large, disc(x, 50, 14)) for x in (40, 44, 48, 55, 65)]
    assert [bool(frame[1].any()) for frame in frames] == [True, True, True, True, False]
    frames.append(visible(large, disc(110 if beside else 142, 50, 14)))
    assert identities(frames) == [{0}, expected]
    vectors = np.eye(3)[[0, 1]]
    same, other = [vectors] * 6, [*[vectors] * 5, np.eye(3)[[0, 2]]]
    assert identities(frames, embeddings=same) == [{0}, expected]
    assert identities(frames, embeddings=other) == [{0}, {1, 2}]
    assert identities(frames, labels=[np.array([3, 5])] * 6) == [{0}, expected]


def rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    """A rectangle (H, W) with this centre."""
    mask = np.zeros(SIZE, bool)
    mask[y - height // 2 : y + height // 2, x - width // 2 : x + width // 2] = True
    return mask


def test_objects_of_different_shapes_that_change_places_keep_their_ids():
    """Each one is nearer to the last place of the other, and their areas are equal."""
    frames = [
        visible(rectangle(60, 50, 10, 30), rectangle(74, 50, 30, 10)),
        visible(rectangle(74, 50, 10, 30), rectangle(60, 50, 30, 10)),
    ]
    assert identities(frames) == [{0}, {1}]


def cut_edges(masks: np.ndarray) -> list[list[str]]:
    """The names of the edges of each mask that are cut, for bool masks and for run lengths."""
    counts = [{"size": list(SIZE), "counts": one} for one in rle.encode(masks)]
    dense, runs = (read_masks(given).sample().cut for given in (masks, counts))
    assert np.array_equal(dense, runs)
    return [[name for name, one in zip(["left", "top", "right", "bottom"], row, strict=True) if one] for row in dense]


def test_edges_at_the_border_and_beside_other_masks_are_cut():
    masks = np.zeros((4, *SIZE), bool)
    masks[0, 40:70, 40:80] = True
    masks[1, 50:60, 80:100] = True  # to the right of it
    masks[2, 0:10, 10:20] = True
    masks[3, 98:, 158:] = True  # few pixels, in a corner
    assert cut_edges(masks) == [["right"], ["left"], ["top"], ["right", "bottom"]]
    masks[3] = False
    masks[3, 30:38, 50] = True  # a line above the first one
    assert cut_edges(masks)[0] == ["top", "right"] and cut_edges(masks)[3] == ["bottom"]


def test_the_offset_of_an_object_comes_from_its_own_edges():
    lower, upper = np.array([4.0, 4, 4, 4]), np.array([1.0, 1, 1, -2])
    cut_lower, cut_upper = np.array([True, False, True, True]), np.array([False, True, True, True])
    # Between two cut edges the object moved no further than what is visible needs.
    assert free_offset(lower, upper, cut_lower, cut_upper).tolist() == [1, 4, 1, 0]


def test_objects_wait_outside_the_border_at_which_they_left():
    motion = Motion()
    motion.start(np.array([[5.0, 50], [80, 50]]), np.array([10.0, 10]))
    motion.velocities[:] = (-9, 1)
    for _ in range(4):
        motion.predict(np.array([10.0, 10]), np.array([False, False]))
        motion.wait_at_border(np.array([[6.0, 4], [6, 4]]), SIZE)
    assert motion.centres.tolist() == [[-6, 54], [44, 54]]
    assert motion.velocities.tolist() == [[0, 1], [-9, 1]]


def test_masks_of_the_caller_do_not_change():
    """Masks between the points of the grid are marked in a copy."""
    masks = np.zeros((2, 300, 400), bool)
    masks[0, 101:103, 151:153] = masks[1, 200:260, 100:200] = True
    before = masks.copy()
    assert mdqe.Linker().push(masks).tolist() == [0, 1]
    assert np.array_equal(masks, before)
