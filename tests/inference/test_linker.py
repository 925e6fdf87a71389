"""`mdqe.Linker` and `mdqe.link`: identities of the detections of single frames."""

import math

import numpy as np
import pytest
import torch

import mdqe
from mdqe.data.synthetic import draw_video
from mdqe.errors import InputError
from mdqe.inference.linker_file import FORMAT, VERSION
from mdqe.inference.session_file import read_state, write_state
from mdqe.results import rle

SIZE = (60, 100)


def squares(*places: tuple[int, int], side: int = 12) -> np.ndarray:
    """Masks (D, H, W) of squares with these left and upper edges."""
    masks = np.zeros((len(places), *SIZE), bool)
    for mask, (x, y) in zip(masks, places, strict=True):
        mask[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] = True
    return masks


def crossing(frames: int) -> list[np.ndarray]:
    """Two objects that pass each other in separate rows, in an order that alternates."""
    both = [squares((5 + 4 * t, 10), (80 - 4 * t, 40)) for t in range(frames)]
    return [masks[[1, 0]] if t % 2 else masks for t, masks in enumerate(both)]


def tracked(ids: list[np.ndarray]) -> list[list[int]]:
    """The ids by object, for frames whose order alternates."""
    return [
        list(column) for column in zip(*(one[:: 1 - 2 * (t % 2)].tolist() for t, one in enumerate(ids)), strict=True)
    ]


def forms(masks: np.ndarray) -> dict:
    """The same masks (D, H, W) in every form that is accepted, with the options that they need."""
    counts = rle.encode(masks)
    lengths, numbers = rle.run_lengths(counts, SIZE)
    plain = [one.tolist() for one in np.split(lengths, np.cumsum(numbers)[:-1])]
    return {
        "bool": (masks, {}),
        "tensor": (torch.from_numpy(masks), {}),
        "numbers": (masks.astype(np.uint8), {}),
        "16 bits": (torch.from_numpy(masks.astype(np.uint16)), {}),
        "probabilities": (masks.astype(np.float32), {}),
        "soft": (torch.from_numpy(masks * 0.6 + 0.2), {}),
        "torchvision": (torch.from_numpy(masks[:, None]).float() * 0.9, {}),
        "logits": (masks * 20.0 - 10, {"logits": True}),
        "list of masks": (list(masks), {}),
        "objects": ([rle.to_coco(one, SIZE) for one in counts], {}),
        "strings": (counts, {"size": SIZE}),
        "bytes": ([one.encode() for one in counts], {"size": SIZE}),
        "counts": (plain, {"size": SIZE}),
    }


@pytest.mark.parametrize("form", list(forms(squares((0, 0)))))
def test_every_form_of_masks_has_the_same_result(form):
    frames = crossing(14)
    options = forms(frames[0])[form][1]
    expected = mdqe.link(frames)
    assert expected.track_ids.tolist() == [0, 1]
    result = mdqe.link([forms(masks)[form][0] for masks in frames], **options)
    assert result.track_ids.tolist() == [0, 1]
    assert np.array_equal(result.masks, expected.masks)
    linker = mdqe.Linker(**options)
    assert tracked([linker.push(forms(masks)[form][0]) for masks in frames]) == [[0] * 14, [1] * 14]


def test_detections_of_supervision():
    supervision = pytest.importorskip("supervision")
    linker = mdqe.Linker()
    for t, masks in enumerate(crossing(10)):
        boxes = supervision.mask_to_xyxy(masks).astype(float)
        labels = np.array([0, 1])[:: 1 - 2 * (t % 2)]
        given = supervision.Detections(xyxy=boxes, mask=masks, confidence=np.array([0.9, 0.8]), class_id=labels)
        assert linker.push(given).tolist() == labels.tolist()
    assert linker.push(supervision.Detections.empty()).tolist() == []
    with pytest.raises(InputError, match="have no masks"):
        linker.push(supervision.Detections(xyxy=boxes))


def test_a_fast_object_needs_no_overlap():
    """It moves by two widths in every frame."""
    linker = mdqe.Linker()
    ids = [linker.push(squares((3 + 16 * t, 20), side=8)) for t in range(6)]
    assert [one.tolist() for one in ids] == [[0]] * 6


def test_look_alikes_at_rest_keep_their_ids():
    linker = mdqe.Linker()
    for t in range(10):
        order = [0, 1] if t % 2 else [1, 0]
        ids = linker.push(squares((10, 10), (40, 10))[order], embeddings=np.ones((2, 8)))
        assert ids.tolist() == ([0, 1] if t == 0 else np.array([1, 0])[order].tolist())
    assert linker.num_tracks == 2


def hidden(linker: mdqe.Linker, absence: int) -> tuple[int, int]:
    """The ids of an object before and after an absence of some frames."""
    before = [linker.push(squares((10 + 2 * t, 20))) for t in range(8)][-1]
    for _ in range(absence):
        assert linker.push(np.zeros((0, *SIZE), bool)).shape == (0,)
    return before[0], linker.push(squares((34, 20)))[0]


def test_an_object_that_returns_keeps_its_id_for_so_many_frames():
    assert hidden(mdqe.Linker(max_absence=9), 9) == (0, 0)
    assert hidden(mdqe.Linker(max_absence=9), 10) == (0, 1)
    assert hidden(mdqe.Linker(), 30) == (0, 0)  # the default
    assert hidden(mdqe.Linker(), 31) == (0, 1)


def test_missing_frames_count_as_absence():
    linker = mdqe.Linker(max_absence=9)
    assert linker.push(squares((10, 20))).tolist() == [0]
    assert [linker.push(squares((10, 20)), frame=t).tolist() for t in (1, 2, 3, 12, 23)] == [[0], [0], [0], [0], [1]]
    assert linker.num_frames == 24
    assert linker.push(squares((10, 20)), frame=10**15).tolist() == [2]  # at once


def test_an_object_behind_another_one_keeps_its_id():
    """Half of it, then nothing is visible; it returns on the other side."""
    linker, seen = mdqe.Linker(), []
    for t in range(20):
        back, front = squares((4 + 4 * t, 22)), squares((34, 16), side=20)
        masks = np.concatenate([front, back & ~front])
        kept = masks.any(axis=(1, 2))
        ids = linker.push(masks[kept])
        assert ids[0] == 0
        seen += ids[1:].tolist()
    assert set(seen) == {1} and len(seen) < 20


def test_scores_decide_what_starts_a_track():
    linker = mdqe.Linker(start_score=0.5)
    assert linker.push(squares((10, 10), (40, 10)), [0.9, 0.4]).tolist() == [0, -1]
    assert linker.push(squares((10, 10), (40, 10)), [0.4, 0.6]).tolist() == [0, 1]  # a low score continues a track
    assert linker.push(squares((10, 10), (10, 11), (40, 10), (85, 45))).tolist() == [
        0,
        -1,
        1,
        2,
    ]  # a duplicate; all are sure


def test_equal_masks_of_the_first_frame_start_two_tracks():
    linker = mdqe.Linker()
    for _ in range(3):
        assert linker.push(squares((10, 10), (10, 10))).tolist() == [0, 1]


def test_empty_masks_are_dropped():
    linker = mdqe.Linker()
    assert linker.push(np.concatenate([squares((10, 10)), np.zeros((1, *SIZE), bool)])).tolist() == [0, -1]
    assert [linker.push([]).tolist() for _ in range(3)] == [[]] * 3


def test_tiny_objects_of_large_frames():
    """Objects between the points of the grid: 3 pixels in a frame of 1200."""
    linker = mdqe.Linker()
    for t in range(12):
        masks = np.zeros((2, 800, 1200), bool)
        masks[0, 101:104, 7 + t : 10 + t], masks[1, 140:143, 60 - t : 63 - t] = True, True
        runs = [rle.to_coco(one, (800, 1200)) for one in rle.encode(masks)]
        assert linker.push(masks if t % 2 else runs).tolist() == [0, 1]


def test_a_saved_linker_continues_as_it_would(tmp_path):
    drawing = draw_video(7, 3, frames=40, size=(72, 128), difficulty="hard")
    vectors = np.random.default_rng(0).normal(size=(len(drawing.masks), 6))

    def push(linker: mdqe.Linker, t: int) -> list[int]:
        return linker.push(drawing.masks[:, t], labels=drawing.labels, embeddings=vectors).tolist()

    linker = mdqe.Linker(max_absence=12)
    mdqe.Linker().save(tmp_path / "new")
    assert mdqe.Linker.resume(tmp_path / "new").push(squares((1, 1))).tolist() == [0]
    for t in range(20):
        push(linker, t)
    linker.save(tmp_path / "state")
    resumed = mdqe.Linker.resume(tmp_path / "state")
    assert (resumed.max_absence, resumed.num_frames, resumed.size) == (12, 20, (72, 128))
    assert [push(linker, t) for t in range(20, 40)] == [push(resumed, t) for t in range(20, 40)]
    assert linker.flush().tolist() == resumed.flush().tolist()
    for action in (lambda: push(linker, 0), linker.flush, lambda: linker.save(tmp_path / "ended")):
        with pytest.raises(InputError, match="ended with flush"):
            action()


def test_damaged_files_name_the_problem(tmp_path):
    path = tmp_path / "state"
    linker = mdqe.Linker()
    linker.push(squares((5, 5)))
    linker.save(path)
    data = path.read_bytes()
    for cut in (10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError, match="not a saved linker"):
            mdqe.Linker.resume(path)
    path.write_bytes(data[:-3] + bytes(255 - byte for byte in data[-3:]))
    with pytest.raises(InputError, match="damaged"):
        mdqe.Linker.resume(path)
    with pytest.raises(FileNotFoundError):
        mdqe.Linker.resume(tmp_path / "none")


def test_forged_files_are_one_error(tmp_path):
    """Every tensor as a number without axes, with a row too many, and with the greatest value of its type."""
    linker = mdqe.Linker()
    linker.push(squares((5, 5), (40, 40)))
    linker.save(tmp_path / "state")
    state = read_state(tmp_path / "state", FORMAT, VERSION, "linker")
    assert "points" in state.tensors
    for name, tensor in state.tensors.items():
        most = math.inf if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
        for forged in (tensor.new_zeros(()), torch.cat([tensor, tensor[:1]]), torch.full_like(tensor, most)):
            if torch.equal(forged, tensor):
                continue  # embeddings of size 0 stay as they are
            write_state(tmp_path / "forged", state._replace(tensors={**state.tensors, name: forged}))
            with pytest.raises(InputError) as caught:
                mdqe.Linker.resume(tmp_path / "forged")
            assert "forged" in str(caught.value) and "\n" not in str(caught.value), name


def test_a_track_without_points_or_area_is_one_error(tmp_path):
    """Its shape cannot be compared with anything."""
    linker = mdqe.Linker()
    linker.push(squares((5, 5), (40, 40)))
    linker.save(tmp_path / "state")
    state = read_state(tmp_path / "state", FORMAT, VERSION, "linker")
    total = int(state.tensors["num_points"].sum())
    area = float(state.tensors["areas"][0])
    for name, forged, message in (
        ("num_points", torch.tensor([0, total]), r"'num_points' is from 0 to \d+, expected 1 to"),
        (
            "areas",
            torch.tensor([area, 0.0], dtype=state.tensors["areas"].dtype),
            "'areas' has the value 0, expected above",
        ),
        ("areas", torch.tensor([-1.0, area], dtype=state.tensors["areas"].dtype), "'areas' has the value -1, expected"),
    ):
        write_state(tmp_path / "forged", state._replace(tensors={**state.tensors, name: forged}))
        with pytest.raises(InputError, match=message):
            mdqe.Linker.resume(tmp_path / "forged")


ONE = squares((5, 5))


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        (squares((5, 5))[:, :50], {}, "masks are 100x50, expected 100x60 as before"),
        (np.zeros((10_001, 60, 100), bool), {}, "masks has 10001 detections, expected at most 10000"),
        ([""] * 10_001, {}, "masks has 10001 detections"),
        (np.where(ONE, np.nan, 0.0), {}, "masks have NaN"),
        (ONE * 3.0, {}, "from 0 to 3, expected 0 to 1, or logits=True"),
        (ONE * np.uint8(255), {}, "uint8 with values from 0 to 255, expected 0 and 1"),
        (ONE[0], {}, r"the shape \(60, 100\), expected \(D, H, W\)"),
        (3, {}, "of the type int"),
        (np.array(True), {}, "of the type ndarray"),
        (ONE.astype("U5"), {}, "masks are <U5, expected bool, integers or floating point"),
        (ONE * 1j, {}, "masks are complex128, expected bool"),
        (torch.from_numpy(ONE * 1j), {}, "masks are complex128, expected bool"),
        (torch.from_numpy(ONE).to_sparse(), {}, "masks are torch.sparse_coo, expected a dense tensor"),
        (torch.zeros(ONE.shape, device="meta"), {}, "masks are on the meta device, expected a dense tensor"),
        ([ONE[0], None], {}, "mask 1 is of the type NoneType, expected ndarray as mask 0"),
        ([torch.from_numpy(ONE[0]), ONE[0]], {}, "mask 1 is of the type ndarray, expected Tensor as mask 0"),
        ([{"size": [30.5, 40], "counts": [1200]}], {}, r"the size of mask 0 is \[30.5, 40\], expected"),
        ([{"size": [math.inf, 40], "counts": [1200]}], {}, r"the size of mask 0 is \[inf, 40\], expected \[height"),
        (["xyz"], {}, "counts of mask 0"),
        ([{"counts": "x"}], {}, '"size" and "counts"'),
        ([{"size": [30, 40], "counts": [1200]}], {}, "mask 0 is 40x30, expected 100x60 as before"),
        ([{"size": [40_000, 40_000], "counts": [1_600_000_000]}], {}, "mask 0 is 40000x40000"),
        (ONE, {"scores": [0.5, 0.5]}, r"scores have the shape \(2,\), expected \(1,\)"),
        (ONE, {"scores": [np.nan]}, "scores have NaN"),
        (ONE, {"scores": [1.5]}, "scores are 1.5 to 1.5, expected 0 to 1"),
        (ONE, {"labels": [0.5]}, "labels are"),
        (ONE, {"labels": [1e30]}, "expected whole numbers from 0"),
        ([{"size": [0, 0], "counts": []}], {}, "mask 0 is 0x0"),
        (ONE, {"labels": ["cat"]}, r"labels are \['cat'\], expected numbers"),
        (ONE, {"embeddings": [[np.inf, 0]]}, "embeddings have NaN or infinity"),
        (ONE, {"embeddings": [[1.0, 0, 0]]}, r"embeddings have the shape \(1, 3\), expected \(1, 2\)"),
        (ONE, {}, r"embeddings is None, expected \(1, 2\)"),
        (ONE, {"frame": 0}, "frame is 0, expected a whole number from 1 in order"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(masks, options, message):
    linker, other = mdqe.Linker(), mdqe.Linker()
    for one in (linker, other):
        one.push(squares((5, 5)), embeddings=[[1.0, 0]])
    with pytest.raises(InputError, match=message) as caught:
        linker.push(masks, **{"embeddings": [[1.0, 0]] if "None" not in message else None, **options})
    assert "\n" not in str(caught.value)
    assert linker.push(squares((7, 5)), embeddings=[[1.0, 0]]).tolist() == [0]
    assert linker.num_frames == 2


def test_forged_sizes_need_no_memory():
    with pytest.raises(InputError, match="masks are 40000x40000, expected at most"):
        mdqe.Linker().push([{"size": [40_000, 40_000], "counts": [1_600_000_000]}])
    assert mdqe.Linker().push([{"size": [16_000, 16_000], "counts": [256_000_000]}]).tolist() == [-1]


def test_bad_arguments():
    sizes = ({"size": size} for size in ((5, 6, 7), (5.5, 6), (math.inf, 6)))
    bad = ({"max_absence": 0}, {"max_absence": 1.5}, {"start_score": 2}, {"start_score": "x"})
    for options in (*bad, {"size": "ab"}, {"size": 5}, {"size": (0, 5)}, *sizes):
        with pytest.raises(InputError, match=next(iter(options))):
            mdqe.Linker(**options)
    with pytest.raises(InputError, match="masks are 0x0, expected pixels"):
        mdqe.Linker().push([{"size": [0, 0], "counts": []}])


@pytest.mark.parametrize("nothing", [[], np.array([]), np.zeros((0, *SIZE), bool)], ids=["list", "1D", "3D"])
def test_frames_without_detections_have_empty_arrays_of_any_form(nothing):
    linker = mdqe.Linker(max_absence=np.int64(5))
    vectors = [[1.0, 0], [0, 1.0]]
    assert linker.push(squares((5, 5), (50, 30)), embeddings=vectors).tolist() == [0, 1]
    for other in ([], np.zeros((0, 2)), None):
        assert linker.push(nothing, scores=[], labels=[], embeddings=other).tolist() == []
    assert linker.push(squares((5, 5), (50, 30)), embeddings=vectors, frame=np.int64(5)).tolist() == [0, 1]


def test_embeddings_of_length_0_say_nothing():
    """A fast object without overlap, for which the score would be too low if embeddings differed."""
    with_zeros, without = mdqe.Linker(), mdqe.Linker()
    for t in range(4):
        one = squares((14 * t, 20))
        assert without.push(one).tolist() == with_zeros.push(one, embeddings=[[0.0, 0, 0]]).tolist() == [0]


@pytest.mark.parametrize("shape", [(1, 600), (600, 1), (3, 900)])
def test_masks_of_a_row_or_a_column(shape):
    mask = np.zeros((1, *shape), bool)
    mask[0, : shape[0] // 2 + 1, : shape[1] // 2 + 1] = True
    dense, runs = mdqe.Linker(), mdqe.Linker()
    for _ in range(2):
        counts = [{"size": list(shape), "counts": one} for one in rle.encode(mask)]
        assert dense.push(mask).tolist() == runs.push(counts).tolist() == [0]


def test_sets_and_large_embeddings():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :3, :3] = masks[1, 5:, 5:] = True
    for given in ({1, 2}, {"a": masks[0]}.values()):
        with pytest.raises(InputError, match="masks are of the type"):
            mdqe.Linker().push(given)
    large, small = mdqe.Linker(), mdqe.Linker()
    for t in range(3):
        order = [t % 2, 1 - t % 2]
        ids = [
            linker.push(masks[order], embeddings=np.eye(2)[order] * scale).tolist()
            for linker, scale in ((large, 1e200), (small, 1))
        ]
        assert ids[0] == ids[1]
    pairs = zip(large.state_dict().values(), small.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
