"""The compiled parts of the linker against NumPy, and the pairs that it compares against all pairs."""

import numpy as np
import pytest
import torch

import mdqe
from mdqe.inference import frame_scores, hidden_match, pair_places
from mdqe.inference.frame_masks import FrameMasks, grid_step
from mdqe.inference.frame_scores import score_frame
from mdqe.results import rle

needs_library = pytest.mark.skipif(rle.compiled_library() is None, reason="the library _C_rle was not built")

SIZES = [(1, 1), (1, 300), (300, 1), (7, 9), (60, 100), (128, 128), (129, 140), (333, 517)]


def draw(random: np.random.Generator, number: int, size: tuple[int, int]) -> np.ndarray:
    """Masks of ellipses, rectangles, single pixels, noise and nothing."""
    masks = np.zeros((number, *size), bool)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for mask in masks:
        y, x = random.uniform(0, size[0]), random.uniform(0, size[1])
        height, width = random.uniform(0.3, max(size) / 3, 2)
        kind = random.integers(0, 5)
        if kind == 0:
            mask[:] = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
        elif kind == 1:
            mask[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = True
        elif kind == 2:
            mask[int(y), int(x)] = True
        elif kind == 3:
            mask[:] = random.random(size) < 0.1
    return masks


def assert_equal(found: tuple, expected: tuple) -> None:
    for a, b in zip(found, expected, strict=True):
        if isinstance(a, tuple):
            assert_equal(a, b)
        else:
            assert np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_library), False])
def test_the_ends_of_two_rows_do_not_touch(compiled, monkeypatch):
    """A mask near the right border and one at the left border of the next row."""
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 5:9, 20:29] = masks[1, 6:10, 0:8] = True
    if not compiled:
        monkeypatch.setattr(rle, "compiled_library", lambda: None)
    cut = FrameMasks(masks, None, (20, 30)).sample().cut
    assert cut.tolist() == [[False] * 4, [True, False, False, False]]


@needs_library
@pytest.mark.parametrize("size", SIZES)
def test_frames_are_sampled_as_by_numpy(size, monkeypatch):
    random = np.random.default_rng(size)
    masks = draw(random, 30, size)
    foreground = np.where(masks, np.uint8(255), np.uint8(0)).view(bool)  # as Pillow writes it
    forms = [masks, foreground, masks[:, ::-1, ::-1][:, ::-1, ::-1], np.asfortranarray(masks), torch.from_numpy(masks)]
    lengths = rle.run_lengths(rle.encode(masks), size)

    def sampled() -> list:
        return [FrameMasks(form, None, size).sample() for form in forms] + [FrameMasks(None, lengths, size).sample()]

    compiled = sampled()
    for one in compiled[1:]:
        assert_equal(one, compiled[0])
    monkeypatch.setattr(rle, "compiled_library", lambda: None)
    for one, expected in zip(compiled, sampled(), strict=True):
        assert_equal(one, expected)
    step, areas = grid_step(size), masks.sum(axis=(1, 2))
    large = compiled[0].areas >= 16 * step**2
    assert (compiled[0].areas[~large] == areas[~large]).all() or step == 1


@needs_library
def test_run_lengths_are_decoded_as_by_numpy(monkeypatch):
    random, size = np.random.default_rng(0), (40, 30)
    valid = rle.encode(draw(random, 50, size))
    damaged = [one[: len(one) // 2] for one in valid[:10]] + ["0", "", "~", "oooooooooo1", valid[0] + "0"]

    def decoded(counts: list) -> tuple | str:
        try:
            return rle.run_lengths(counts, size)
        except ValueError as error:
            return str(error)

    cases = [valid, [valid[0].encode(), *valid], [[1200], *valid], *([valid[1], one] for one in damaged), []]
    compiled = [decoded(counts) for counts in cases]
    monkeypatch.setattr(rle, "compiled_library", lambda: None)
    for found, counts in zip(compiled, cases, strict=True):
        expected = decoded(counts)
        assert found == expected if isinstance(expected, str) else assert_equal(found, expected) is None


def crowd(seed: int, frames: int = 25) -> list[tuple]:
    """Masks, scores, labels and embeddings of objects that move, in random order, some missing."""
    random = np.random.default_rng(seed)
    places, moves = random.uniform(0, (90, 130), (25, 2)), random.normal(0, 2.5, (25, 2))
    sides, looks = random.integers(2, 25, (25, 2)), random.normal(size=(25, 4))
    found = []
    for t in range(frames):
        masks = np.zeros((25, 90, 130), bool)
        for mask, (y, x), (height, width) in zip(masks, (places + moves * t).astype(int), sides, strict=True):
            mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = True
        order = random.permutation(25)[: random.integers(15, 26)]
        near = looks[order] + random.normal(0, 0.3, (len(order), 4))
        found.append((masks[order], random.uniform(0.3, 1, len(order)), order % 3, near))
    return found


@needs_library
@pytest.mark.parametrize("seed", range(3))
def test_ids_are_those_of_numpy(seed, monkeypatch):
    frames, linkers = crowd(seed), [mdqe.Linker(), mdqe.Linker()]
    for frame in frames:
        compiled = linkers[0].push(*frame)
        with monkeypatch.context() as patch:
            patch.setattr(rle, "compiled_library", lambda: None)
            assert np.array_equal(linkers[1].push(*frame), compiled)
    assert linkers[0].num_tracks > 25


def measure(kind: str, tracks, detections) -> tuple:
    """A compiled function on all tracks and detections, also those far away or out of frame; or on blocks of tracks."""
    points, step = detections.points, detections.step
    shape = (len(tracks), len(points.areas))
    rows, columns = np.nonzero(np.ones(shape, bool))  # not contiguous
    if kind == "edges":
        return pair_places.compare_edges(tracks, points, rows, columns, step)
    rows, columns = rows.copy(), columns.copy()
    if kind == "near":
        halves = slice(0, shape[0] // 2), slice(shape[0] // 2, shape[0])
        shared = np.arange(shape[0] * shape[1]).reshape(shape) % 97 == 0
        return sum((pair_places.near_pairs(tracks, points, x, shared[x].astype(np.int64), step) for x in halves), ())
    if kind == "places":
        edges = pair_places.compare_edges(tracks, points, rows, columns, step)
        counts = rows * 7 % 50, np.arange(shape[0]) * 11 % 60, np.arange(shape[0]) * 5 % 40
        return pair_places.score_places(tracks, points, (rows, columns), counts, edges, step)
    filled = np.flatnonzero(points.areas > 0)
    seen = np.arange(0, shape[0], 2)
    tracks.see(seen, points, filled[seen % len(filled)], step)
    return tracks.outlines.copy(), frame_scores._count_outlines(tracks, points, rows, columns, step)


@needs_library
@pytest.mark.parametrize("kind", ["edges", "near", "places", "outlines"])
def test_pairs_are_measured_as_by_numpy(kind, monkeypatch):
    linker, number = mdqe.Linker(), [0]

    def scored(tracks, detections):
        before = tracks.seen.copy(), tracks.outlines.copy()
        compiled = measure(kind, tracks, detections)
        with monkeypatch.context() as patch:
            patch.setattr(rle, "compiled_library", lambda: None)
            tracks.outlines[:] = before[1]
            assert_equal(compiled, measure(kind, tracks, detections))
        tracks.seen, tracks.outlines = before
        number[0] += len(compiled[-1])
        return score_frame(tracks, detections)

    monkeypatch.setattr("mdqe.inference.linker.score_frame", scored)
    for frame in crowd(3):
        linker.push(*frame[:2])
    assert number[0] > 2000


@needs_library
def test_calls_take_arrays_that_are_read_only():
    """The address of such an array is read in another way."""
    masks = np.zeros((2, 30, 40), bool)
    masks[0, 3:9, 4:9] = masks[1, 8:20, 20:33] = True
    expected = FrameMasks(masks.copy(), None, (30, 40)).sample()
    masks.flags.writeable = False
    assert_equal(FrameMasks(masks, None, (30, 40)).sample(), expected)
    lengths, numbers = rle.run_lengths(rle.encode(masks), (30, 40))
    lengths.flags.writeable = numbers.flags.writeable = False
    assert_equal(FrameMasks(None, (lengths, numbers), (30, 40)).sample(), expected)


@pytest.mark.parametrize(("seed", "values"), [(0, 2), (1, 3), (2, 4), (3, 2)])
def test_pairs_that_are_not_compared_cannot_match(seed, values, monkeypatch):
    """With all pairs compared, in one block or many, the pairs that can match have the same scores."""
    linker, number = mdqe.Linker(start_score=0.2), [0, 0]
    limits = [2**18] if values == 4 else [200, 2**18]  # the last bit of products of embeddings depends on the block

    def all_pairs(tracks, frame, block, shared, step):
        number[0] += len(pair_places.near_pairs(tracks, frame, block, shared, step)[0])
        number[1] += shared.size
        row, column = np.nonzero(np.repeat([frame.areas > 0], len(shared), axis=0))
        return row + block.start, column.copy()  # contiguous

    def scored(tracks, detections):
        expected = score_frame(tracks, detections)
        for limit in limits:
            with monkeypatch.context() as patch:
                patch.setattr(frame_scores, "BLOCK", limit)
                patch.setattr(frame_scores, "near_pairs", all_pairs)
                assert_equal(score_frame(tracks, detections), expected)
        return expected

    monkeypatch.setattr("mdqe.inference.linker.score_frame", scored)
    for frame in crowd(seed):
        linker.push(*frame[:values])
    assert 0 < number[0] < 0.8 * number[1]


@needs_library
@pytest.mark.parametrize("seed", range(3))
def test_moved_points_are_counted_as_by_numpy(seed, monkeypatch):
    """Also halves, which are rounded to even numbers, and places far outside the frame."""
    random = np.random.default_rng(seed)
    frame = FrameMasks(draw(random, 6, (40, 50)), None, (40, 50)).sample()
    points, moves = random.integers(-20, 140, (9, 64, 2)) / 2, random.integers(-60, 60, (9, 50, 2)) / 2
    moves[0, 0], moves[0, 1] = 1e300, -1e12
    columns = random.integers(0, 6, 9)
    compiled = hidden_match._count_visible(frame, points, columns, moves)
    monkeypatch.setattr(rle, "compiled_library", lambda: None)
    assert np.array_equal(compiled, hidden_match._count_visible(frame, points, columns, moves))
    x, y = np.rint(points[4] + moves[4, 7]).T.astype(int)
    inside = (x >= 0) & (x < 50) & (y >= 0) & (y < 40)
    covered = frame.grid.reshape(6, 40, 50)[:, y[inside], x[inside]]
    own = covered[columns[4]]
    assert compiled[:, 4, 7].tolist() == [own.sum(), (own | ~covered.any(axis=0)).sum()]


@pytest.mark.parametrize("score", [0.3, 0.6])
def test_hidden_pairs_that_are_not_compared_cannot_match(score, monkeypatch):
    """Discs at random places, most of which cover others."""
    random, ids, compared = np.random.default_rng(0), [], []
    rows, columns = np.mgrid[:90, :130]
    places = random.uniform(0, (90, 130), (4, 50, 2))
    frames = [((rows - at[:, :1, None]) ** 2 + (columns - at[:, 1:, None]) ** 2) < 150 for at in places]
    cost = hidden_match.least_cost
    monkeypatch.setattr(hidden_match, "least_cost", lambda *given: (compared.append(len(given[2])), cost(*given))[1])
    for rounding in (hidden_match.ROUNDING, np.inf):
        monkeypatch.setattr(hidden_match, "ROUNDING", rounding)
        linker = mdqe.Linker()
        ids.append([linker.push(masks, np.full(50, score if t else 1.0)).tolist() for t, masks in enumerate(frames)])
        compared.append(0)
    assert ids[0] == ids[1] and any(0 <= one < 50 for one in ids[0][-1])
    end = compared.index(0)
    assert sum(compared[:end]) < sum(compared[end:])
