"""Undoes exchanges of the ids of two tracks, as they happen where objects hide each other or leave the frame.

Two tracks are exchanged from a frame on, or for a few frames, if both then follow smoother trajectories, and if the
silhouettes before and after the exchange then agree better. A track that begins after another one has ended is the same
case: one of the two then has no observations. This needs the frames after the exchange, so it is done for whole videos
only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mdqe.inference.frame_points import FramePoints
from mdqe.inference.silhouettes import Links, Silhouettes
from mdqe.inference.trajectories import BESIDE, CLEAR, CUT, costs, deviation

MARGIN = 1.5  # least decrease of the cost
SILHOUETTES, START = 0.7, 7.0  # weight of the cost by silhouettes, and such a cost of a detection that begins a track
CONTRARY = 8.0  # an exchange that costs more than this by silhouettes, weighted, is not compared by trajectories
MISSED = 0.01  # share of missed detections of visible objects, above which no exchange is undone
AROUND, SEEN, FARTHEST = 10, 8, 40  # frames around an exchange; observations on each side; most frames to these
SHORT = 6  # most frames of an exchange that ends
STEP, GROWTH, GROWING = 1.0, 0.5, 10  # distance of places, relative to the size; its growth in each of so many frames
TOGETHER = 12  # frames within which exchanges are compared at once
MOST = 4  # exchanges for each track
UNSURE = 3  # two tracks of fewer observations each are not exchanged: any two false detections are a smooth motion
EXCESS = 2.0  # noise that is assumed of edges, relative to the measured one: the errors of edges are not independent
LEAST = 16  # third differences of edges from which noise is measured
LABEL, LOOKS = 1.0, 4.0  # least cost of an observation with another label; cost of embeddings, by their variance


class Observations(NamedTuple):
    """All observations (M,) of the tracks of a video, in order of the frames."""

    frames: np.ndarray
    tracks: np.ndarray
    """(M,) indices of tracks."""
    boxes: np.ndarray
    """(M, 4) xyxy in pixels."""
    areas: np.ndarray
    """(M,) pixels."""
    edges: np.ndarray
    """(M, 4): CLEAR, BESIDE or CUT."""
    labels: np.ndarray
    """(M,); −1 where unknown."""
    embeddings: np.ndarray
    """(M, E), of length 1; E is 0 without embeddings."""
    points: np.ndarray
    """(M,) arrays (K, 2) int16: columns and rows of the points of each mask in the grid."""

    def centres(self, rows: np.ndarray) -> np.ndarray:
        """The centres (K, 2), in pixels, of the boxes of K observations."""
        return np.asarray((self.boxes[rows, :2] + self.boxes[rows, 2:]) / 2)

    def rows_of_tracks(self, number: int) -> list[np.ndarray]:
        """The indices of the observations of each of the first `number` tracks, ascending."""
        ends = np.cumsum(np.bincount(self.tracks, minlength=number))
        return np.split(np.argsort(self.tracks, kind="stable"), ends[:-1])


class _Exchange(NamedTuple):
    """The observations of two tracks from a frame on, before an end, are exchanged."""

    begin: int
    end: int


def edge_kinds(frame: FramePoints) -> np.ndarray:
    """CLEAR, BESIDE or CUT for the edges (D, 4) of the boxes of a frame.

    Where another mask touches, it may also hide parts at other edges than those that it touches.
    """
    beside = frame.touched | frame.cut.any(axis=1)
    return np.where(frame.cut, CUT, np.where(beside, BESIDE, CLEAR)[:, None]).astype(np.int8)


def undo_exchanges(found: Observations, shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The tracks (M,) of the observations, after exchanges have been undone, the surest one first.

    Args:
        found: the observations.
        shape: height and width of the grid.
        size: height and width of the frames in pixels.
    """
    tracks, number = found.tracks.copy(), 1 + int(found.tracks.max(initial=-1))
    if number < 2 or _missed(found) > MISSED:
        return tracks
    rows = found.rows_of_tracks(number)
    noise, label = _noise(found, rows), _label_cost(found)
    found = found._replace(edges=_cut_edges(found, rows, noise, size))
    silhouettes = Silhouettes(found.points, found.frames, (found.edges == CLEAR).all(axis=1), shape)
    best: dict[tuple[int, int], tuple[float, _Exchange]] = {}
    changed, done, spans = list(range(number)), set(), _Spans(number)
    for _ in range(MOST * number + 1):
        spans.measure(found, rows, changed)
        for a, b in spans.near(changed):
            gain, exchange = _best_exchange(found, silhouettes, rows[a], rows[b], noise, label)
            best[a, b] = gain, exchange
        order = sorted((-gain, pair) for pair, (gain, _) in best.items() if gain > MARGIN)
        chosen = None
        for _, (a, b) in order:
            sets = _exchange(found, rows[a], rows[b], best[a, b][1])
            key = frozenset(one.tobytes() for one in sets)
            if key not in done:
                done |= {key, frozenset(one.tobytes() for one in (rows[a], rows[b]))}
                chosen = a, b, sets
                break
        if chosen is None:
            break
        a, b, sets = chosen
        rows[a], rows[b] = sets
        best = {pair: one for pair, one in best.items() if not {a, b} & set(pair)}
        changed = [a, b]
    for track, own in enumerate(rows):
        tracks[own] = track
    return tracks


def _missed(found: Observations) -> float:
    """The share of frames in which an object is not detected between two detections in full view."""
    order = np.lexsort((found.frames, found.tracks))
    frames, tracks = found.frames[order], found.tracks[order]
    clear = (found.edges[order] == CLEAR).all(axis=1)
    follow = (tracks[1:] == tracks[:-1]) & clear[1:] & clear[:-1]
    return float((np.diff(frames)[follow] > 1).mean()) if follow.any() else 0.0


def _noise(found: Observations, tracks: list[np.ndarray]) -> float:
    """How much noisier edges are than those of exact masks, at least 1: from objects in full view in four frames."""
    ratios = [np.zeros(0)]
    for rows in tracks:
        clear = rows[(found.edges[rows] == CLEAR).all(axis=1)]
        if len(clear) > 3:
            follow = found.frames[clear[3:]] - found.frames[clear[:-3]] == 3
            third = np.abs(np.diff(found.boxes[clear], 3, axis=0)[follow]).ravel()
            ratios.append(third / (np.sqrt(20.0) * deviation(_size(found, rows))))  # 1 + 9 + 9 + 1 variances
    all_ratios = np.concatenate(ratios)
    if len(all_ratios) < LEAST:
        return 1.0
    return max(1.0, EXCESS * float(np.median(all_ratios)) / 0.6745)  # of a normal distribution


def _label_cost(found: Observations) -> float:
    """What an observation with another label than its track costs: the surer, the more rarely labels change."""
    order = np.lexsort((found.frames, found.tracks))
    labels, tracks = found.labels[order], found.tracks[order]
    follow = (tracks[1:] == tracks[:-1]) & (labels[1:] >= 0) & (labels[:-1] >= 0)
    changes = np.count_nonzero(labels[1:][follow] != labels[:-1][follow])
    wrong = (changes + 1) / (2 * np.count_nonzero(follow) + 2)  # a wrong label is two changes
    return max(LABEL, float(np.log((1 - wrong) / wrong)))


def _cut_edges(found: Observations, tracks: list[np.ndarray], noise: float, size: tuple[int, int]) -> np.ndarray:
    """The kinds (M, 4) of the edges, if noisy masks may end before the border of the frame at which they are cut."""
    sizes = np.array([_size(found, rows) for rows in tracks])
    reach = (noise - 1) * deviation(sizes)[found.tracks, None]
    near = np.concatenate([found.boxes[:, :2] < reach, found.boxes[:, 2:] > np.array(size[::-1]) - reach], axis=1)
    beside = near.any(axis=1, keepdims=True) & (found.edges == CLEAR)
    return np.where(near, CUT, np.where(beside, BESIDE, found.edges))


class _Spans:
    """Where and when each of N tracks is, as arrays with one row each; NaN without observations."""

    def __init__(self, number: int) -> None:
        self.boxes, self.times = np.full((number, 4), np.nan), np.full((number, 2), np.nan)
        self.sizes, self.numbers = np.zeros(number), np.zeros(number, np.int64)

    def measure(self, found: Observations, rows: list[np.ndarray], changed: list[int]) -> None:
        """Measure the `changed` tracks again."""
        for track in changed:
            own = rows[track]
            boxes = found.boxes[own]
            self.numbers[track], self.sizes[track] = len(own), _size(found, own) if len(own) else 0.0
            self.boxes[track] = [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)] if len(own) else np.nan
            self.times[track] = (found.frames[own[0]], found.frames[own[-1]]) if len(own) else np.nan

    def near(self, changed: list[int]) -> list[tuple[int, int]]:
        """The pairs of one of the `changed` tracks with another one that are near in time and space, ascending."""
        boxes, times, pairs = self.boxes, self.times, set()
        for track in changed:
            reach = (STEP + GROWTH * GROWING) * np.maximum(self.sizes, self.sizes[track])[:, None]
            near = ((boxes[:, :2] - boxes[track, 2:] < reach) & (boxes[track, :2] - boxes[:, 2:] < reach)).all(axis=1)
            near &= (times[:, 0] - times[track, 1] <= FARTHEST) & (times[track, 0] - times[:, 1] <= FARTHEST)
            near &= np.maximum(self.numbers, self.numbers[track]) >= UNSURE
            near[track] = False
            pairs |= {(min(track, other), max(track, other)) for other in np.flatnonzero(near).tolist()}
        return sorted(pairs)


def _size(found: Observations, rows: np.ndarray) -> float:
    """The size of objects that are mostly visible, in pixels."""
    boxes = found.boxes[rows]
    return max(float(np.quantile(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)), 0.75)), 4.0)


def _best_exchange(
    found: Observations, silhouettes: Silhouettes, a: np.ndarray, b: np.ndarray, noise: float, label: float
) -> tuple[float, _Exchange]:
    """The exchange of two tracks with the largest decrease of the cost, and the decrease."""
    times = _ambiguous_times(found, a, b)
    last = int(max(found.frames[a[-1]], found.frames[b[-1]])) + 1
    best = (0.0, _Exchange(last, last))
    if not times:
        return best
    links = Links(silhouettes, (a, b), (found.frames[a], found.frames[b]), START)
    tried = [_Exchange(i, j) for i in times for j in [*(j for j in times if i < j <= i + SHORT), last]]
    costs_of_links = {one: SILHOUETTES * links.cost(one.begin, one.end if one.end < last else None) for one in tried}
    tried = [one for one in tried if costs_of_links[one] < CONTRARY]
    while tried:
        first = tried[0].begin
        some = [one for one in tried if one.begin <= first + TOGETHER]
        tried = tried[len(some) :]
        gains = _gains(found, a, b, some, last, noise, label) - [costs_of_links[one] for one in some]
        place = int(gains.argmax())
        best = max(best, (float(gains[place]), some[place]), key=lambda one: one[0])
    return best


def _ambiguous_times(found: Observations, a: np.ndarray, b: np.ndarray) -> list[int]:
    """The frames before which two tracks may be exchanged: they are near, and one of them is not seen in full."""
    size = max(_size(found, a), _size(found, b))
    times = np.union1d(found.frames[a], found.frames[b])
    previous = np.concatenate([[-1], times[:-1]])
    sides = []
    for own in (a, b):
        place = np.searchsorted(found.frames[own], times)
        sides.append((np.where(place > 0, own[place - 1], -1), np.append(own, -1)[place]))
    possible, follows, unsure = np.ones(len(times), bool), np.zeros(len(times), bool), np.zeros(len(times), bool)
    for one, other in ((0, 1), (1, 0)):
        before, after = sides[one][0], sides[other][1]
        both, gap = (before >= 0) & (after >= 0), found.frames[after] - found.frames[before]
        reach = (STEP + GROWTH * gap.clip(0, GROWING)) * size
        near = np.linalg.norm(found.centres(after) - found.centres(before), axis=1) < reach
        near &= gap <= FARTHEST
        possible &= near | ~both
        follows |= near & both
        own = sides[one][1]
        gap = found.frames[own] - found.frames[before]
        begins, ends = (before < 0) & (found.frames[own] == times), (own < 0) & (found.frames[before] == previous)
        unsure |= begins | ends | (before >= 0) & (own >= 0) & (gap > 1)
        unsure |= (before >= 0) & (found.edges[before] != CLEAR).any(axis=1)
        unsure |= (own >= 0) & (found.edges[own] != CLEAR).any(axis=1)
    return times[possible & follows & unsure].tolist()


def _gains(
    found: Observations, a: np.ndarray, b: np.ndarray, tried: list[_Exchange], last: int, noise: float, label: float
) -> np.ndarray:
    """The decrease of the cost (K,) by each of K exchanges."""
    ends = [one.end for one in tried if one.end < last]
    first, final = tried[0].begin, max([one.begin for one in tried] + ends)
    begin, end = first - AROUND, final + AROUND
    for own in (a, b):
        frames = found.frames[own]
        before, after = frames[frames < first], frames[frames >= final]
        if len(before):
            begin = min(begin, max(int(before[-SEEN:][0]), first - FARTHEST))
        if len(after):
            end = max(end, min(int(after[:SEEN][-1]), final + FARTHEST) + 1)
    rows = np.full((2, end - begin), -1)
    for row, own in zip(rows, (a, b), strict=True):
        some = own[(found.frames[own] >= begin) & (found.frames[own] < end)]
        row[found.frames[some] - begin] = some
    times = np.arange(begin, end)
    inside = np.array([(times >= one.begin) & (times < one.end) for one in tried])
    sets = np.concatenate([rows[None], np.where(inside[:, None], rows[::-1], rows)]).reshape(-1, len(times))
    present, size = sets >= 0, _size(found, rows[rows >= 0])
    total = costs(found.boxes[sets], found.edges[sets], present, size, noise) + _looks(found, sets, present, label)
    total = total.reshape(-1, 2).sum(axis=1)
    return np.asarray(total[0] - total[1:])


def _looks(found: Observations, sets: np.ndarray, present: np.ndarray, label: float) -> np.ndarray:
    """What different labels and embeddings in each of B sets of observations (B, T) cost, (B,)."""
    cost, number = np.zeros(len(sets)), present.sum(axis=1)
    labels = np.where(present, found.labels[sets], -1)
    names = np.unique(labels[labels >= 0])
    if len(names) > 1:
        votes = np.stack([(labels == name).sum(axis=1) for name in names])
        cost += label * (votes.sum(axis=0) - votes.max(axis=0))
    if found.embeddings.shape[1]:
        sums = np.array([found.embeddings[one[own]].sum(axis=0) for one, own in zip(sets, present, strict=True)])
        cost += LOOKS * (number - (sums**2).sum(axis=1) / number.clip(1))
    return cost


def _exchange(found: Observations, a: np.ndarray, b: np.ndarray, one: _Exchange) -> tuple[np.ndarray, np.ndarray]:
    """The rows of two tracks after an exchange."""
    inside = [(found.frames[own] >= one.begin) & (found.frames[own] < one.end) for own in (a, b)]
    return (
        np.sort(np.concatenate([a[~inside[0]], b[inside[1]]])),
        np.sort(np.concatenate([b[~inside[1]], a[inside[0]]])),
    )
