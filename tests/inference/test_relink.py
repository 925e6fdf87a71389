"""New ids for the masks of the tracker: exchanged and broken tracks are mended by how their objects move."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mdqe.errors import InputError
from mdqe.inference.relink import Relinker, _without_specks
from mdqe.inference.saved_state import SavedTensors
from mdqe.inference.tracker import WindowTracks

SIZE = (40, 64)  # of frames; masks have 10 × 16 points
SCORES = torch.tensor([[0.9, 0.1], [0.5, 0.3], [0.2, 0.8]])  # (tracks, classes)


def window(tracks: dict[int, dict[int, tuple[int, int]]], frames: range, scores: Tensor = SCORES) -> WindowTracks:
    """Tracks that are 3 × 3 squares with the given corner (row, column) in some frames."""
    logits = torch.zeros(len(tracks), len(frames), 10, 16)
    for row, places in enumerate(tracks.values()):
        for frame, (y, x) in places.items():
            if frame in frames:
                logits[row, frame - frames.start] = -1 - row
                logits[row, frame - frames.start, y : y + 3, x : x + 3] = 1 + row
    return WindowTracks(frames.start, scores, torch.tensor(list(tracks)), logits)


def right(t: int) -> tuple[int, int]:
    return 1, t


def left(t: int) -> tuple[int, int]:
    return 6, 12 - t


def test_an_exchange_of_two_tracks_is_undone():
    """Tracks 0 and 2 exchange their objects after frame 5."""
    first = {0: {t: right(t) for t in range(6)}, 2: {t: left(t) for t in range(6)}}
    second = {0: {t: left(t) for t in range(6, 10)}, 2: {t: right(t) for t in range(6, 10)}}
    tracks = {i: first[i] | second[i] for i in (0, 2)}
    got = Relinker().relink(window(tracks, range(10)), SIZE, ends=True)
    assert got.first_frame == 0 and got.track_ids.tolist() == [0, 1]
    for row, place in enumerate((right, left)):
        for t in range(10):
            y, x = place(t)
            found = got.mask_logits[row, t] > 0
            assert found.sum() == 9 and found[y : y + 3, x : x + 3].all()
    # The logits themselves are those of the track that has the mask.
    assert got.mask_logits[0, 5].max() == 1 and got.mask_logits[0, 6].max() == 2
    weighted = [(6 * SCORES[0] + 4 * SCORES[2]) / 10, (6 * SCORES[2] + 4 * SCORES[0]) / 10]
    torch.testing.assert_close(got.class_scores, torch.stack(weighted))


def test_two_tracks_of_one_object_become_one():
    tracks = {0: {t: right(t) for t in range(4)}, 1: {t: right(t) for t in range(5, 8)}}
    got = Relinker().relink(window(tracks, range(8)), SIZE, ends=True)
    assert got.track_ids.tolist() == [0]
    assert (got.mask_logits[0] > 0).flatten(1).any(1).tolist() == [True] * 4 + [False] + [True] * 3
    torch.testing.assert_close(got.class_scores, ((4 * SCORES[0] + 3 * SCORES[1]) / 7)[None])


def test_a_repeated_mask_is_dropped():
    places = {t: right(t) for t in range(5)}
    again = {t: right(t) for t in range(2, 5)}
    got = Relinker().relink(window({0: places, 1: again}, range(5)), SIZE, ends=True)
    assert got.track_ids.tolist() == [0] and (got.mask_logits > 0).sum() == 5 * 9


@pytest.mark.parametrize(("others", "dropped"), [(3, False), (4, False), (5, True), (8, True)])
def test_a_mask_that_owns_less_than_half_of_its_pixels_is_dropped(others: int, dropped: bool):
    """So many of eight pixels have a larger logit in the mask of the other track, which leaves whole."""
    given = window({0: {}, 1: {}}, range(4))
    given.mask_logits[:] = -1
    given.mask_logits[0, :, 1:9, :8] = 2
    given.mask_logits[1, :, 4, 8 - others : 16 - others] = 1
    got = Relinker().relink(given, SIZE, ends=True)
    assert got.track_ids.tolist() == ([0] if dropped else [0, 1])
    assert torch.equal(got.mask_logits, given.mask_logits[: len(got.track_ids)])


def test_one_of_several_masks_of_an_object_stays():
    """Each of three equal masks owns a third of the pixels. One after the other is dropped, so that one owns all."""
    given = window({i: {0: (0, 0)} for i in range(3)}, range(1))
    given.mask_logits[:] = -1
    given.mask_logits[:, 0, 2:5, 2:11] = torch.eye(3)[:, :, None] + 1
    given.mask_logits[1, 0, 3, 2] = 0.5  # of 27 pixels, track 1 has 8, and the others 9 and 10
    given.mask_logits[0, 0, 3, 2] = 3
    relinker = Relinker()
    got = relinker.relink(given, SIZE, ends=True)
    assert relinker.new_ids == [{0: 0}] and torch.equal(got.mask_logits, given.mask_logits[:1])


def test_a_speck_does_not_move_an_object():
    """An object comes in from the left; its left edge is cut. In frame 1 there is a pixel far to the right."""
    logits = torch.full((1, 8, 40, 64), -1.0)
    for t in range(8):
        logits[0, t, 10:26, : 10 + 3 * t] = 1
    logits[0, 1, 12, 50] = 1
    got = Relinker().relink(WindowTracks(0, SCORES[:1], torch.tensor([0]), logits), (160, 256), ends=True)
    assert got.track_ids.tolist() == [0] and torch.equal(got.mask_logits, logits)  # the speck stays in the mask


@pytest.mark.parametrize(("area", "counts"), [(2, False), (3, True), (5, True)])
def test_a_large_part_of_a_mask_is_no_speck(area: int, counts: bool):
    """A tenth of the largest part, of 30 pixels, is enough; parts of several masks are independent."""
    masks = np.zeros((3, 10, 16), bool)
    masks[:2, :3, :10] = True
    masks[0, 8, 10 : 10 + area] = masks[2, 8, :2] = True
    cleaned = _without_specks(masks)
    np.testing.assert_array_equal(cleaned[1:], masks[1:])
    assert cleaned[0, :3, :10].all() and cleaned[0].sum() == 30 + area * counts


def test_a_mask_whose_pixels_all_belong_to_others_is_dropped():
    """It is a part of another mask, so that it does not repeat it."""
    given = window({0: {t: right(t) for t in range(5)}, 1: {}}, range(5))
    given.mask_logits[1, 2, 1, 2:4] = 0.5
    relinker = Relinker()
    got = relinker.relink(given, SIZE, ends=True)
    assert got.track_ids.tolist() == [0] and relinker.new_ids == [{0: 0}] * 5
    given.mask_logits[1, 2, 1, 2:4] = 3
    assert Relinker().relink(given, SIZE, ends=True).track_ids.tolist() == [0, 1]


@pytest.mark.parametrize("cuts", [(4,), (1, 2, 3, 4, 5, 6, 7), (3, 6)])
def test_scores_of_parts_of_a_window_are_those_of_the_frames_so_far(cuts: tuple[int, ...]):
    """The last part of the window has the scores of the whole window; the next window begins anew."""
    tracks = {
        0: {t: right(t) for t in range(3)} | {t: left(t) for t in range(3, 12)},
        1: {t: right(t) for t in range(3, 12)},
    }
    whole = Relinker().relink(window(tracks, range(8)), SIZE, ends=True)
    relinker, parts = Relinker(), []
    for start, end in zip((0, *cuts), (*cuts, 8), strict=True):
        parts.append(relinker.relink(window(tracks, range(start, end)), SIZE, ends=end == 8))
    assert torch.equal(parts[-1].class_scores, whole.class_scores)
    for row, track in enumerate(whole.track_ids):
        found = [p.mask_logits[p.track_ids == track].sum(0) for p in parts]
        assert torch.equal(torch.cat(found), whole.mask_logits[row])
    after = relinker.relink(window(tracks, range(8, 12), SCORES.flip(1)), SIZE, ends=True)
    assert after.track_ids.tolist() == whole.track_ids.tolist() == [0, 1]
    torch.testing.assert_close(after.class_scores, SCORES.flip(1)[[1, 0]])


def test_tracks_that_are_not_visible_have_no_scores():
    tracks = {0: {0: right(0), 1: right(1)}, 1: {}}
    relinker = Relinker()
    assert relinker.relink(window({}, range(2)), SIZE, ends=True).class_scores.shape == (0, 2)
    got = relinker.relink(window(tracks, range(2)), SIZE, ends=True)
    assert got.track_ids.tolist() == [0] and torch.equal(got.class_scores, SCORES[:1])
    later = relinker.relink(window({1: {}}, range(2, 4)), SIZE, ends=True)
    assert later.track_ids.tolist() == [] and torch.equal(later.class_scores, torch.zeros(1, 2))
    assert later.mask_logits.shape == (0, 2, 10, 16)


def test_padding_is_out_of_frame():
    """Objects leave at the edge of the frame, not at that of the masks, and the masks keep their size."""
    relinker = Relinker()
    got = relinker.relink(window({0: {0: (2, 6)}, 1: {0: (2, 11)}}, range(1)), (38, 40), ends=True)
    assert relinker.state_dict()["linker.size"].tolist() == [10, 10]
    assert got.track_ids.tolist() == [0] and got.mask_logits.shape[2:] == (10, 16)


def test_the_state_continues():
    tracks = {
        0: {t: right(t) for t in range(6)} | {t: left(t) for t in range(6, 12)},
        2: {t: left(t) for t in range(6)},
    }
    one, other = Relinker(), Relinker()
    one.relink(window(tracks, range(7)), SIZE, ends=False)
    state = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    other.restore(SavedTensors(state), 3)
    assert (other.num_frames, other.num_tracks) == (7, 2)
    expected, got = (r.relink(window(tracks, range(7, 12)), SIZE, ends=True) for r in (one, other))
    for a, b in zip(expected[1:], got[1:], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": torch.tensor([[0, 3, 1]])}, "the tensor 'frames' has tracks up to 3, expected less than 3"),
        ({"frames": torch.tensor([[2, 0, 1]])}, "the tensor 'frames' has ids up to 2, expected less than 2"),
        ({"frames": torch.zeros(1, 2, dtype=torch.int64)}, r"the tensor 'frames' is \(1, 2\) int64"),
        ({"linker.size": None}, "the tensor 'linker.size' is missing"),
        ({"linker.cut": torch.full((2, 4), 2, dtype=torch.uint8)}, "the tensor 'linker.cut' has the value 2"),
        ({"other": torch.zeros(1)}, "unknown tensors 'other'"),
    ],
)
def test_a_wrong_state_is_named(change: dict[str, Tensor | None], message: str):
    relinker = Relinker()
    relinker.relink(window({0: {0: right(0)}, 1: {0: left(0)}}, range(1)), SIZE, ends=False)
    state = {name: x for name, x in (relinker.state_dict() | change).items() if x is not None}
    with pytest.raises(InputError, match=message):
        Relinker().restore(SavedTensors(state), 3)


def test_ids_do_not_depend_on_the_order_of_the_tracks():
    random = np.random.default_rng(0)
    starts = random.integers(0, 7, 4)
    tracks = {i: {t: (int(y), min(t + 4 * i % 13, 13)) for t in range(6)} for i, y in enumerate(starts)}
    given, order = window(tracks, range(6), torch.eye(4)), [2, 0, 3, 1]
    got = Relinker().relink(given, SIZE, ends=True)
    other = given._replace(class_scores=given.class_scores[order], mask_logits=given.mask_logits[order])
    moved = Relinker().relink(other, SIZE, ends=True)
    masks, others = ({m.gt(0).numpy().tobytes() for m in r.mask_logits} for r in (got, moved))
    assert masks == others
