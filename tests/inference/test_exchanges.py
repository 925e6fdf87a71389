"""Exchanges of two ids that are undone in whole videos, and the cost of a trajectory."""

import numpy as np
import pytest
from scipy import ndimage

import mdqe
from mdqe.data.synthetic import Drawing, draw_video
from mdqe.inference.exchanges import Observations, edge_kinds, undo_exchanges
from mdqe.inference.frame_masks import read_masks
from mdqe.inference.trajectories import BESIDE, CLEAR, CUT, EXTENT, JERK, NOISE, NOISE_PIXELS, _smoothness, costs

SIZE = (80, 160)
GRID = (320, 320)


def observations(*paths: dict[int, tuple[float, float]], side: float = 20.0, beside: range = range(0)) -> Observations:
    """Squares with the centres `paths` by frame, one path for each track; frames `beside` touch another mask."""
    rows = sorted((frame, track, place) for track, path in enumerate(paths) for frame, place in path.items())
    frames, tracks = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    centres = np.array([row[2] for row in rows], np.float64).reshape(-1, 2)
    boxes = np.concatenate([centres - side / 2, centres + side / 2], axis=1)
    edges = np.where(np.isin(frames, beside), BESIDE, CLEAR)[:, None].repeat(4, axis=1)
    number = len(rows)
    areas, labels, embeddings = np.full(number, side**2), np.full(number, -1), np.zeros((number, 0))
    return Observations(frames, tracks, boxes, areas, edges, labels, embeddings, points_in(boxes))


def points_in(boxes: np.ndarray) -> np.ndarray:
    """(M,) arrays (K, 2) of the points of GRID in boxes."""
    x, y = np.meshgrid(*(np.arange(edge, dtype=np.int16) for edge in GRID[::-1]))
    inside = [(x >= box[0]) & (y >= box[1]) & (x < box[2]) & (y < box[3]) for box in boxes]
    return np.fromiter([np.stack([x[one], y[one]], axis=1) for one in inside], object, len(boxes))


def undone(found: Observations) -> np.ndarray:
    return undo_exchanges(found, GRID, GRID)


def crossing(exchanged: range, beside: range = range(12, 19)) -> tuple[Observations, np.ndarray]:
    """Two squares that pass each other and have each other's ids in some frames; and their true tracks."""
    right = {t: (10 + 5.0 * t, 40.0) for t in range(30)}
    left = {t: (165 - 5.0 * t, 48.0) for t in range(30)}
    first = {t: (left if t in exchanged else right)[t] for t in right}
    second = {t: (right if t in exchanged else left)[t] for t in left}
    found = observations(first, second, beside=beside)
    true = np.where(np.isin(found.frames, exchanged), 1 - found.tracks, found.tracks)
    return found, true


def same_groups(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two lists of tracks are equal but for their names."""
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@pytest.mark.parametrize("exchanged", [range(15, 30), range(15, 16), range(14, 17), range(0)])
def test_an_exchange_where_two_objects_meet_is_undone(exchanged):
    found, true = crossing(exchanged)
    assert same_groups(undone(found), true)


def test_nothing_is_undone_where_both_are_in_full_view():
    """Without a moment in which an exchange can have happened, the tracks are those of the linker."""
    found, _ = crossing(range(15, 30), beside=range(0))
    assert np.array_equal(undone(found), found.tracks)


def test_objects_that_meet_and_turn_back_keep_their_ids():
    paths = [{t: (80 + sign * (12 + abs(15 - t) * 4.0), 40.0) for t in range(30)} for sign in (-1, 1)]
    found = observations(*paths, beside=range(13, 18))
    assert np.array_equal(undone(found), found.tracks)


def test_nothing_is_undone_if_visible_objects_are_missed():
    found, _ = crossing(range(15, 30))
    kept = ~np.isin(found.frames, [3, 6, 24])
    fewer = Observations(*(values[kept] for values in found))
    assert np.array_equal(undone(fewer), fewer.tracks)


@pytest.mark.parametrize(("length", "is_undone"), [(59, True), (58, False)])
def test_one_missed_detection_in_a_hundred_is_allowed(length, is_undone):
    """Besides the two squares, which have 42 pairs of following detections in full view, one at rest is missed once."""
    found, true = crossing(range(15, 30))
    still = observations({t + (t > 20): (250.0, 250.0) for t in range(length)})
    still = still._replace(tracks=still.tracks + 2)
    order = np.argsort(np.concatenate([found.frames, still.frames]), kind="stable")
    both = Observations(*(np.concatenate(pair)[order] for pair in zip(found, still, strict=True)))
    expected = np.concatenate([true if is_undone else found.tracks, still.tracks])[order]
    assert same_groups(undone(both), expected)


def test_shapes_count():
    """Two objects turn back where they meet. To pass each other would be smoother, but their shapes differ."""
    paths = [{t: (80 + sign * abs(15 - t) * 4.0, 40 + sign * 1.0) for t in range(30)} for sign in (-1, 1)]
    found = observations(*paths, beside=range(12, 19))
    passed = np.where(found.frames < 15, found.tracks, 1 - found.tracks)
    assert same_groups(undone(found), passed)
    for row in np.flatnonzero(found.tracks == 1):  # a diamond in the same box
        points, centre = found.points[row], found.boxes[row].reshape(2, 2).mean(axis=0)
        found.points[row] = points[abs(points - centre + 0.5).sum(axis=1) <= 10]
    assert np.array_equal(undone(found), found.tracks)


def test_the_order_of_detections_and_the_names_of_tracks_do_not_matter():
    found, true = crossing(range(15, 30))
    order = np.lexsort((np.random.default_rng(0).random(len(true)), found.frames))
    other = Observations(*(values[order] for values in found))
    assert same_groups(undone(other), true[order])
    assert same_groups(undone(found._replace(tracks=1 - found.tracks)), true)


@pytest.mark.parametrize("paths", [[], [{0: (20.0, 20.0)}], [{0: (20.0, 20.0)}, {0: (90.0, 20.0)}]])
def test_videos_of_few_observations(paths):
    found = observations(*paths)
    assert undone(found).tolist() == found.tracks.tolist()


def test_false_detections_do_not_become_tracks():
    """Each one is a track of one observation at a random place."""
    random = np.random.default_rng(0)
    found = observations(*({t // 4: tuple(random.uniform(0, 300, 2))} for t in range(80)))
    assert np.array_equal(undone(found), found.tracks)


def test_a_track_that_continues_another_one_behind_an_object_joins_it():
    """The second one begins where the first one, which was hidden for four frames, must be by then."""
    path = {t: (10 + 4.0 * t, 40.0) for t in range(34) if t not in range(15, 19)}
    found = observations({t: x for t, x in path.items() if t < 15}, {t: x for t, x in path.items() if t > 18})
    edges = np.where(np.isin(found.frames, [14, 19])[:, None], BESIDE, found.edges)
    assert len(set(undone(found._replace(edges=edges)).tolist())) == 1


def test_labels_and_embeddings_count():
    """Two squares turn back where they meet. To pass each other would be smoother, but they look different."""
    paths = [{t: (80 + sign * abs(15 - t) * 4.0, 40 + sign * 1.0) for t in range(30)} for sign in (-1, 1)]
    found = observations(*paths, beside=range(12, 19))
    passed = np.where(found.frames < 15, found.tracks, 1 - found.tracks)
    assert same_groups(undone(found), passed)
    for looks in ({"labels": found.tracks * 5}, {"embeddings": np.eye(2)[found.tracks]}):
        assert np.array_equal(undone(found._replace(**looks)), found.tracks)


def test_edges_beside_other_masks():
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 20:40, 20:40] = masks[1, 25:35, 40:60] = masks[2, 50:60, 100:120] = True
    found = edge_kinds(read_masks(masks).sample())
    assert found.tolist() == [[BESIDE, BESIDE, CUT, BESIDE], [CUT, BESIDE, BESIDE, BESIDE], [CLEAR] * 4]


@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_the_cost_is_that_of_a_dense_system(factor):
    """Boxes that agree with a trajectory but for noise, so that all weights stay near those of the first turn."""
    random, frames, size = np.random.default_rng(0), 12, 20.0
    centres = np.arange(frames)[:, None] * (3.0, 2.0)
    boxes = np.concatenate([centres - 10, centres + 10], axis=1) + random.normal(0, 1e-3, (frames, 4))
    present = np.ones((1, frames), bool)
    (cost,) = costs(boxes[None], np.zeros((1, frames, 4), int), present, size, factor)
    band, _ = _smoothness(frames)
    prior = sum(np.diag(row[: 2 * frames - i], -i) for i, row in enumerate(band))
    prior = (prior + np.tril(prior, -1).T) / size**2
    noise = factor**2 * (NOISE_PIXELS**2 + (NOISE * size) ** 2)
    spread = np.linalg.slogdet(np.eye(2 * frames) / noise + prior)[1] - np.linalg.slogdet(prior)[1]
    expected = 0.0
    for axis in (0, 1):
        measured = (boxes[:, axis::2] - boxes[:, axis::2].mean()).reshape(-1)
        fitted = np.linalg.solve(np.eye(2 * frames) / noise + prior, measured / noise)
        place = fitted @ fitted / (8.0 * size) ** 2 / frames  # the weak prior of the place is not counted
        expected += ((fitted - measured) ** 2).sum() / noise + fitted @ prior @ fitted - place + spread
    assert cost == pytest.approx(expected / 2, rel=1e-4)
    rough = boxes.copy()
    rough[6] += 3 * JERK * size + 2 * EXTENT * size
    assert costs(rough[None], np.zeros((1, frames, 4), int), present, size, factor)[0] > cost
    assert costs(boxes[None], np.zeros((1, frames, 4), int), ~present, size).tolist() == [0.0]


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


@pytest.mark.parametrize(("seed", "index"), [(3003, 24), (5005, 20), (1001, 25), (5005, 7)])
def test_exchanges_of_the_linker_are_undone(seed, index):
    """Scenes of the benchmark in which the linker exchanges two ids, for one frame or until the end.

    In the last two, the boxes do not show it clearly enough: the exchanges are at the border of the frame.
    """
    drawing = draw_video(seed, index, frames=60, size=(144, 256))
    frames, _ = visible(drawing)
    names = [len(ids_of_objects(drawing, mdqe.link(frames, rejoin=rejoin))) for rejoin in (False, True)]
    assert names == [len(drawing.masks) + 2, len(drawing.masks)]


def visible(drawing: Drawing) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The masks of the visible objects of each frame, and their labels."""
    frames = drawing.masks.transpose(1, 0, 2, 3)
    rows = [masks.any(axis=(1, 2)) for masks in frames]
    return [masks[own] for masks, own in zip(frames, rows, strict=True)], [drawing.labels[own] for own in rows]


def ids_of_objects(drawing: Drawing, result: mdqe.VideoInstances) -> set[tuple[int, int]]:
    """All pairs of an object and an id that it has in some frame."""
    return {
        (one, int(track))
        for t in range(drawing.masks.shape[1])
        for row, track in enumerate(result.track_ids)
        for one in range(len(drawing.masks))
        if result.present[row, t] and np.array_equal(result.mask(row, t), drawing.masks[one, t])
    }


@pytest.mark.parametrize(("seed", "index"), [(271828, 14), (20202, 7)])
def test_sure_labels_decide(seed, index):
    """Labels that never change along a track are sure: an exchange for a single frame does not outweigh them."""
    drawing = draw_video(seed, index, frames=60, size=(144, 256))
    frames, labels = visible(drawing)
    assert len(ids_of_objects(drawing, mdqe.link(frames, rejoin=True))) > len(drawing.masks)
    assert len(ids_of_objects(drawing, mdqe.link(frames, labels=labels, rejoin=True))) == len(drawing.masks)


def jittered(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A mask moved by some pixels, 4 % of its size, and grown, shrunk, or neither, by one pixel."""
    moved = ndimage.shift(mask, np.round(random.normal(0, 0.04 * np.sqrt(mask.sum()), 2)).astype(int), order=0)
    change = (ndimage.binary_erosion, ndimage.binary_dilation, None)[random.integers(3)]
    return moved if change is None or mask.sum() < 64 else change(moved)


@pytest.mark.parametrize(("seed", "index"), [(1001, 2), (3003, 1)])
def test_noisy_masks_do_not_cause_exchanges(seed, index):
    """Objects pass the border, and noisy masks often end before it: their edges there are cut, too."""
    drawing, random = draw_video(seed, index, frames=60, size=(144, 256)), np.random.default_rng(0)
    frames, objects = [], []
    for masks in drawing.masks.transpose(1, 0, 2, 3):
        own = np.flatnonzero(masks.sum(axis=(1, 2)) >= 16)
        frames.append(np.stack([jittered(masks[one], random) for one in own]))
        objects.append(own)
    result = mdqe.link(frames, rejoin=True)
    pairs = {
        (int(one), int(result.track_ids[row]))
        for t, (masks, own) in enumerate(zip(frames, objects, strict=True))
        for row in np.flatnonzero(result.present[:, t])
        for mask, one in zip(masks, own, strict=True)
        if np.array_equal(result.mask(row, t), mask)
    }
    assert len(pairs) == len({one for one, _ in pairs})


def test_a_drawn_scene_keeps_its_masks():
    """The masks of a result are the given ones, whatever was exchanged."""
    frames = []
    for t in range(24):
        near, far = disc(20 + 5 * t, 40, 14), disc(140 - 5 * t, 44, 13)
        frames.append(np.stack([near, far & ~near]))
    result = mdqe.link(frames, rejoin=True)
    for t, masks in enumerate(frames):
        given = {mask.tobytes() for mask in masks if mask.any()}
        assert {mask.tobytes() for mask in result.masks[:, t] if mask.any()} == given
    assert len(result) == 2
