"""Comparison of the tracks of a `mdqe.Linker`, moved to their predicted places, with the detections of a frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mdqe.inference.frame_points import FramePoints
from mdqe.inference.linked_tracks import SAME, SAMPLES, LinkedTracks, doubled_centres
from mdqe.inference.motion import free_offset, smaller_offset
from mdqe.results import rle
from mdqe.results.foreign_call import call

REACH = 1.15  # distance from the predicted place, relative to the size, at which the score of a place is exp(-1/2)
UNCERTAINTY = 0.3  # weight of the variance of a predicted place in the square of the reach
FIRST_REACH = 1.5  # factor of the reach of a track of one observation, whose velocity is unknown
FARTHEST = 5.0  # the reach of an object that has been absent for long
SHAPE, ABSENT = 0.5, 0.1  # most that alike shapes add to the score of a pair; what a track adds that was absent
SMALLER, LARGER = 0.4, 0.25  # powers of the ratio of areas, for detections that are smaller or larger than the track
CUT = 0.15  # the power instead, where what is cut explains the difference
HIDDEN = 0.6  # share of a track's area below which a mask is not visible in full
ONE_EDGE, NARROW, NO_EDGE = 2.0, 8.0, 1000.0  # variances of places from one edge, a visible end, or two cut edges
YOUNG, YOUNG_WEIGHT = 3, 0.8  # tracks with fewer observations, and the weight of their scores
OTHER_LABEL = 0.4  # weight of the score of a pair with different labels
MATCH = 0.2  # least score of a pair
FARTHEST_PLACE = 1.001 * float(
    np.sqrt(-2 * np.log(MATCH))
)  # distance of a place that scores MATCH, in its reach; rounded up
DOUBT = 0.7  # weight of 1 − score of a detection
PART = 0.65  # a mask that covers this share of several tracks has several objects
_EDGE_CONSTANTS = np.array([SAME, HIDDEN, ONE_EDGE, NARROW, NO_EDGE])
BLOCK = 2**18  # pairs that are scored at once
SHARPNESS, LEAST_LOOKS = 12.0, 0.2  # of cosines of embeddings; weight of the score of a pair of different embeddings


class Detections(NamedTuple):
    """The D detections of a frame."""

    points: FramePoints
    scores: np.ndarray
    """(D,), from 0 to 1."""
    labels: np.ndarray
    """(D,); −1 without labels."""
    embeddings: np.ndarray
    """(D, E), of length 1."""
    step: int
    """Distance of the points of the grid, in pixels."""


class FrameScores(NamedTuple):
    """Comparison of N tracks with D detections of a frame: the P pairs that can match, ascending."""

    rows: np.ndarray
    """(P,) tracks."""
    columns: np.ndarray
    """(P,) detections."""
    scores: np.ndarray
    """(P,): the sum of overlap and place, less DOUBT of a low score of the detection, above MATCH; and of the shape."""
    shared: np.ndarray
    """(P,): points that a track's mask shares with a detection."""
    offsets: np.ndarray
    """(P, 2): see `Edges`."""
    doubt: np.ndarray
    """(P, 2): see `Edges`."""
    inside: np.ndarray
    """(N,): points of a track's mask that are in any detection or outside the frame."""
    contents: np.ndarray
    """(D,): number of tracks of which a detection covers at least the share PART."""


def score_frame(tracks: LinkedTracks, detections: Detections) -> FrameScores:
    """Compare tracks with detections; `tracks.motion` has the predicted places.

    The overlap of a pair is the IoU of the predicted mask with the detection, in which hidden parts of the track count
    half. Its place, from 0 to 1, says how well place and size agree. Both count less if label or embedding differ.
    """
    frame, confidence, labels, embeddings, step = detections
    number, size = len(tracks), len(frame.areas)
    inside, outside, contents = np.zeros(number, np.int64), np.zeros(number, np.int64), np.zeros(size, np.int64)
    best = best_cosines(tracks.embeddings, embeddings) if embeddings.shape[1] else None
    young = np.where(tracks.observations < YOUNG, YOUNG_WEIGHT, 1.0)
    labelled = bool((labels >= 0).any())
    near = _NearPairs(tracks, frame, step)
    parts = []
    height = max(1, BLOCK // max(size, 1))
    for begin in range(0, number, height):  # in blocks, for frames of many detections
        block = slice(begin, begin + height)
        counts, inside[block], outside[block] = _count_shared(tracks, frame, block, step)
        contents += (counts > PART * tracks.areas[block, None]).sum(axis=0)
        row, column = np.nonzero(near.of(block) | (counts > 0))
        shared = counts[row, column]
        row += begin
        found, areas, weight = frame.sizes[column], tracks.areas[row], young[row]
        visible = shared / np.maximum(found + areas - np.maximum(inside[row], shared), 1)
        plain = shared / np.maximum(found + areas - outside[row] - shared, 1)
        if labelled:
            own, other = tracks.labels[row], labels[column]
            weight = np.where((own != other) & (own >= 0) & (other >= 0), OTHER_LABEL, 1.0) * weight
        if best is not None:
            looks = appearance(tracks.embeddings, embeddings, block, (row, column), best)
            weight = weight * (LEAST_LOOKS + (1 - LEAST_LOOKS) * looks)
        edges = compare_edges(tracks, frame, row, column, step)
        place = _score_places(tracks, edges, row, found, step) * weight - DOUBT * (1 - confidence[column])
        scores = 0.5 * (visible + plain) * weight + place
        kept = (scores > MATCH).nonzero()[0]
        arrays = (row, column, scores, shared, edges.offsets, edges.doubt)
        parts.append([array[kept] for array in arrays])
    none, pair = np.zeros(0, np.int64), np.zeros((0, 2))
    if len(parts) != 1:
        empty = [none, none, np.zeros(0), none, pair, pair]
        parts = [[np.concatenate(arrays) for arrays in zip(empty, *parts, strict=True)]]
    row, column, scores, shared, offsets, doubt = parts[0]
    scores += _compare_shapes(tracks, frame, row, column, step)
    return FrameScores(row, column, scores, shared, offsets, doubt, inside, contents)


class _NearPairs:
    """Which tracks and detections are so near that their places can score more than MATCH, without shared points.

    The distance that is compared with the reach of a place is at least the gap between the predicted and the found box.
    """

    def __init__(self, tracks: LinkedTracks, frame: FramePoints, step: int) -> None:
        rows = np.arange(len(tracks))
        reach = place_reach(tracks, rows, tracks.areas, step)
        # A track that was never visible in full has the reach of its detection if that is larger.
        self._cut = np.asarray(tracks.cut.any(axis=1))
        reach += np.where(self._cut, FIRST_REACH, 0.0)[:, None] * np.sqrt(UNCERTAINTY * tracks.motion.variances[..., 0])
        margins, centres = tracks.extents / 2 + FARTHEST_PLACE * reach, tracks.motion.centres
        self._tracks = np.concatenate([centres - margins, centres + margins], axis=1).T[..., None]  # (4, N, 1)
        self._found = frame.boxes.T.copy()
        self._found[:, frame.areas == 0] = np.nan  # near nothing
        larger = FARTHEST_PLACE * FIRST_REACH * REACH * np.sqrt(frame.areas).clip(2 * step)
        self._grown = np.concatenate([self._found[:2] - larger, self._found[2:] + larger])

    def of(self, block: slice) -> np.ndarray:
        """(M, D) bool of the tracks in a block."""
        tracks, cut = self._tracks[:, block], np.flatnonzero(self._cut[block])
        near = _overlap(tracks, self._found)
        near[cut] = _overlap(tracks[:, cut], self._grown)
        return near


def _overlap(tracks: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Whether boxes (4, M, 1) and (4, D) overlap or touch, (M, D)."""
    left, up, right, down = found
    overlap = (left <= tracks[2]) & (right >= tracks[0])
    overlap &= (up <= tracks[3]) & (down >= tracks[1])
    return np.asarray(overlap)


def _compare_shapes(
    tracks: LinkedTracks, frame: FramePoints, rows: np.ndarray, columns: np.ndarray, step: int
) -> np.ndarray:
    """What is added to the scores of pairs (P,) that are rivals: the more, the more alike their visible shapes are.

    Pairs of one track or of one detection are rivals. The part of the track that was visible in the previous frame is
    laid over the detection, centre on centre. Tracks that were absent have no such part.
    """
    several = np.bincount(rows, minlength=len(tracks))[rows] > 1
    rivals = np.flatnonzero(several | (np.bincount(columns, minlength=len(frame.areas))[columns] > 1))
    added = np.zeros(len(rows))
    added[rivals] = ABSENT
    rivals = rivals[tracks.seen[rows[rivals]] > 0]
    if not len(rivals):
        return added
    row, column = rows[rivals], columns[rivals]
    seen, found = tracks.seen[row], frame.sizes[column]
    shared = np.minimum(_count_outlines(tracks, frame, row, column, step) / SAMPLES * seen, found)
    added[rivals] = SHAPE * (shared / (seen + found - shared)) ** 2
    return added


def _count_outlines(
    tracks: LinkedTracks, frame: FramePoints, rows: np.ndarray, columns: np.ndarray, step: int
) -> np.ndarray:
    """How many points of the outlines of the tracks `rows` (P,) are in the masks `columns` (P,), centre on centre."""
    centres = doubled_centres(frame, columns, step)
    shared = np.empty(len(rows), np.int64)
    if (library := rle.compiled_library()) is not None:
        arrays = (tracks.outlines, rows, columns, centres)
        call(library.mdqe_count_outlines, *arrays, len(rows), SAMPLES, *frame.shape, frame.grid, shared)
        return shared
    height, width = frame.shape
    for begin in range(0, len(rows), BLOCK // SAMPLES):
        some = slice(begin, begin + BLOCK // SAMPLES)
        x, y = ((tracks.outlines[rows[some]] + centres[some, None]) // 2).transpose(2, 0, 1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        covered = frame.grid[columns[some, None], np.where(inside, y * width + x, 0)] & inside
        shared[some] = covered.sum(axis=1)
    return shared


def _score_places(tracks: LinkedTracks, edges: Edges, rows: np.ndarray, found: np.ndarray, step: int) -> np.ndarray:
    """How well the place and the area of the tracks `rows` (P,) agree with detections of areas `found` (P,)."""
    areas = tracks.areas[rows]
    growing = np.asarray(tracks.cut.any(axis=1))[rows] & (found > areas)  # it was never visible in full
    reach = place_reach(tracks, rows, np.where(growing, found, areas), step)
    place = np.exp(-0.5 * _square_sum(edges.distances / reach))
    ratio = found / areas
    place *= np.minimum(ratio, 1) ** np.where(edges.partial, CUT, SMALLER)
    return np.asarray(place * np.minimum(1 / ratio, 1) ** np.where(growing, CUT, LARGER))


def _square_sum(values: np.ndarray) -> np.ndarray:
    squares = values**2
    return np.asarray(squares[..., 0] + squares[..., 1])


def place_reach(tracks: LinkedTracks, rows: np.ndarray, areas: np.ndarray, step: int) -> np.ndarray:
    """Standard deviation (…, 2) of the places of the tracks `rows` (…) in pixels, for their areas (…)."""
    sizes = np.maximum(np.sqrt(areas), 2)[..., None] * step
    variances = UNCERTAINTY * tracks.motion.variances[rows, :, 0]
    reach = np.minimum(np.sqrt((REACH * sizes) ** 2 + variances), FARTHEST * sizes)
    return np.asarray(reach * np.where(tracks.observations > 1, 1.0, FIRST_REACH)[rows][..., None])


class Edges(NamedTuple):
    """Comparison of predicted boxes of tracks with boxes of detections, for pairs of any shape (…)."""

    offsets: np.ndarray
    """(…, 2): the measured minus the predicted centres, in pixels."""
    distances: np.ndarray
    """(…, 2): along each axis, how far the track must move at least to agree."""
    doubt: np.ndarray
    """(…, 2): factor of the variance of each offset."""
    partial: np.ndarray
    """(…) bool: the detection is smaller than the track, and its cut edges explain it."""


def compare_edges(
    tracks: LinkedTracks, frame: FramePoints, rows: np.ndarray, detections: np.ndarray, step: int
) -> Edges:
    """Measure the places of the tracks `rows` (…) from the edges of `detections` (…) that are their own.

    Edges at the border of the frame or beside another mask count only if the length of the box is that of the track.
    A box that is cut along one axis may also be shorter along the other, such as the visible end of a disc.
    """
    if (library := rle.compiled_library()) is None or rows.ndim != 1:
        return _compare_edges_numpy(tracks, frame, rows, detections, step)
    pairs = len(rows)
    rows, detections = np.ascontiguousarray(rows), np.ascontiguousarray(detections)
    offsets, distances, doubt = measures = np.empty((3, pairs, 2))
    partial = np.empty(pairs, bool)
    own = (tracks.motion.centres, tracks.extents, tracks.areas)
    found = (frame.boxes, frame.cut, frame.sizes)
    call(library.mdqe_compare_edges, rows, detections, pairs, *own, *found, step, _EDGE_CONSTANTS, *measures, partial)
    return Edges(offsets, distances, doubt, partial)


def _compare_edges_numpy(
    tracks: LinkedTracks, frame: FramePoints, rows: np.ndarray, detections: np.ndarray, step: int
) -> Edges:
    """As `compare_edges`."""
    centres, extents = tracks.motion.centres[rows], tracks.extents[rows]
    boxes, edges = frame.boxes[detections], frame.cut[detections]
    lower = boxes[..., :2] - (centres - extents / 2)
    upper = boxes[..., 2:] - (centres + extents / 2)
    longer = upper - lower
    same = np.abs(longer) <= SAME * extents + step
    cut_lower, cut_upper = edges[..., :2] & ~same, edges[..., 2:] & ~same
    cut = cut_lower | cut_upper
    narrow = np.asarray(edges.any(axis=-1))[..., None] & ~cut & ~same & (longer < 0)
    middle, smaller = (lower + upper) / 2, smaller_offset(lower, upper)
    free = free_offset(lower, upper, cut_lower | narrow, cut_upper | narrow)
    shrunk = (frame.sizes[detections] < HIDDEN * tracks.areas[rows])[..., None]
    offsets = np.where(cut, free, np.where(shrunk & ~same & ~narrow, smaller, middle))
    distances = np.where(cut | narrow, np.abs(free), (np.abs(smaller) + np.abs(middle)) / 2)
    doubt = np.where(cut_lower & cut_upper, NO_EDGE, np.where(narrow, NARROW, np.where(cut | shrunk, ONE_EDGE, 1.0)))
    return Edges(offsets, distances, doubt, np.asarray(((cut | narrow) & (longer < 0)).any(axis=-1)))


def best_cosines(tracks: np.ndarray, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine of each track (N,) with any detection, and of each detection (D,) with any track."""
    of_tracks, of_detections = np.full(len(tracks), -1.0), np.full(len(detections), -1.0)
    height = max(1, BLOCK // max(len(detections), 1))
    for begin in range(0, len(tracks), height):
        cosine = tracks[begin : begin + height] @ detections.T
        of_tracks[begin : begin + height] = cosine.max(axis=1, initial=-1)
        of_detections = np.maximum(of_detections, cosine.max(axis=0, initial=-1))
    return of_tracks, of_detections


def appearance(
    tracks: np.ndarray,
    detections: np.ndarray,
    block: slice,
    pairs: tuple[np.ndarray, np.ndarray],
    best: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Agreement (P,), from 0 to 1, of embeddings (N, E) and (D, E) of length 1.

    As the softmax of Eq. 7, relative to the best pair of the track or detection instead of the sum: several equal
    embeddings agree in full. Embeddings of length 0 say nothing, and agree with all.

    Args:
        block: of tracks.
        pairs: (P,) tracks, all in the block, and (P,) detections.
        best: of `best_cosines`.
    """
    rows, columns = pairs
    cosine = (tracks[block] @ detections.T)[rows - block.start, columns]
    largest = np.maximum(best[1][columns], best[0][rows])
    known = np.asarray(tracks.any(axis=1))[rows] & np.asarray(detections.any(axis=1))[columns]
    return np.where(known, np.exp(SHARPNESS * (cosine - largest)) * cosine.clip(0, 1), 1.0)


def _count_shared(
    tracks: LinkedTracks, frame: FramePoints, block: slice, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the points of the masks of M tracks, moved to their predicted places.

    Returns:
        Those shared with each detection (M, D); those in any detection or outside the frame (M,); and outside it (M,).
    """
    masks = tracks.masks[block]
    number, size = len(masks), len(frame.areas)
    moves = (tracks.motion.centres[block] - tracks.places[block]) / step
    shifts = np.round(moves).clip(-(10**6), 10**6).astype(np.int64)
    lengths = np.array([len(mask) for mask in masks], np.int64)
    points = np.concatenate([np.zeros((0, 2), np.int16), *masks])
    if (library := rle.compiled_library()) is None:
        return _count_shared_numpy(points, lengths, shifts, frame)
    shared, inside, outside = np.zeros((number, size), np.int64), np.zeros(number, np.int64), np.zeros(number, np.int64)
    lists = (frame.counts, frame.starts, frame.detections)
    call(
        library.mdqe_count_shared, points, lengths, shifts, number, *frame.shape, *lists, size, shared, inside, outside
    )
    return shared, inside + outside, outside


def _count_shared_numpy(
    points: np.ndarray, lengths: np.ndarray, shifts: np.ndarray, frame: FramePoints
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_count_shared`, of masks with `lengths` (M,) of the points (K, 2), moved by `shifts` (M, 2)."""
    (height, width), number = frame.shape, len(lengths)
    owners = np.repeat(np.arange(number), lengths)
    x, y = (points + shifts[owners]).T
    visible = np.flatnonzero((x >= 0) & (x < width) & (y >= 0) & (y < height))
    owners, places = owners[visible], (y * width + x)[visible]
    outside = lengths - np.bincount(owners, minlength=number)
    inside = np.bincount(owners[frame.counts[places] > 0], minlength=number) + outside
    return frame.shared(owners, places, number), inside, outside
