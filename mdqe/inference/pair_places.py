"""How well the places and areas of tracks and detections agree, and which pairs are near each other.

Pairs are numbered by arrays of tracks and of detections. The compiled functions do the same operations as NumPy in the
same order. NumPy computes exponentials and powers in any case: its last bits differ from those of C.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mdqe.inference.frame_points import FramePoints
from mdqe.inference.linked_tracks import SAME, LinkedTracks
from mdqe.inference.motion import free_offset, smaller_offset
from mdqe.results import rle
from mdqe.results.foreign_call import call

REACH = 1.15  # distance from the predicted place, relative to the size, at which the score of a place is exp(-1/2)
UNCERTAINTY = 0.3  # weight of the variance of a predicted place in the square of the reach
FIRST_REACH = 1.5  # factor of the reach of a track of one observation, whose velocity is unknown
FARTHEST = 5.0  # the reach of an object that has been absent for long
MATCH = 0.2  # least score of a pair
FARTHEST_PLACE = 1.001 * float(
    np.sqrt(-2 * np.log(MATCH))
)  # distance of a place that scores MATCH, in its reach; rounded up
SMALLER, LARGER = 0.4, 0.25  # powers of the ratio of areas, for detections that are smaller or larger than the track
CUT = 0.15  # the power instead, where what is cut explains the difference
HIDDEN = 0.6  # share of a track's area below which a mask is not visible in full
ONE_EDGE, NARROW, NO_EDGE = 2.0, 8.0, 1000.0  # variances of places from one edge, a visible end, or two cut edges
_EDGES = np.array([SAME, HIDDEN, ONE_EDGE, NARROW, NO_EDGE])
_PLACES = np.array([REACH, UNCERTAINTY, FIRST_REACH, FARTHEST, FARTHEST_PLACE, FARTHEST_PLACE * FIRST_REACH * REACH])
_POWERS = np.array([SMALLER, LARGER, CUT])


def near_pairs(
    tracks: LinkedTracks, frame: FramePoints, block: slice, shared: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (P,) of M tracks with D detections that can match, ascending: all others score at most MATCH.

    They share points, or the predicted and the found box are so near that their places can score more than MATCH: the
    distance that is compared with the reach of a place is at least the gap between these boxes.

    Args:
        block: the M tracks.
        shared: (M, D) points.
    """
    if (library := rle.compiled_library()) is None:
        row, column = np.nonzero(_near_numpy(tracks, frame, block, step) | (shared > 0))
        return row + block.start, column
    pairs = np.empty((2, shared.size), np.int64)
    motion = (tracks.motion.centres, tracks.motion.variances)
    own = (tracks.extents, tracks.areas, tracks.observations, tracks.cut)
    found = (*shared.shape, shared, frame.boxes, frame.areas)
    number = call(library.mdqe_near_pairs, block.start, *found, *motion, *own, step, _PLACES, *pairs)
    return pairs[0, :number], pairs[1, :number]


def _near_numpy(tracks: LinkedTracks, frame: FramePoints, block: slice, step: int) -> np.ndarray:
    """Whether the boxes of M tracks and D detections are near each other, (M, D)."""
    rows = np.arange(len(tracks))[block]
    reach = place_reach(tracks, rows, tracks.areas[rows], step)
    # A track that was never visible in full has the reach of its detection if that is larger.
    cut = np.asarray(tracks.cut[rows].any(axis=1))
    reach += np.where(cut, FIRST_REACH, 0.0)[:, None] * np.sqrt(UNCERTAINTY * tracks.motion.variances[rows, :, 0])
    margins, centres = tracks.extents[rows] / 2 + FARTHEST_PLACE * reach, tracks.motion.centres[rows]
    boxes = np.concatenate([centres - margins, centres + margins], axis=1).T[..., None]  # (4, M, 1)
    found = frame.boxes.T.copy()
    found[:, frame.areas == 0] = np.nan  # near nothing
    larger = FARTHEST_PLACE * FIRST_REACH * REACH * np.maximum(np.sqrt(frame.areas), 2 * step)
    grown = np.concatenate([found[:2] - larger, found[2:] + larger])
    return np.where(cut[:, None], _overlap(boxes, grown), _overlap(boxes, found))


def _overlap(tracks: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Whether boxes (4, M, 1) and (4, D) overlap or touch, (M, D)."""
    left, up, right, down = found
    overlap = (left <= tracks[2]) & (right >= tracks[0])
    overlap &= (up <= tracks[3]) & (down >= tracks[1])
    return np.asarray(overlap)


def score_places(
    tracks: LinkedTracks,
    frame: FramePoints,
    pairs: tuple[np.ndarray, np.ndarray],
    counts: tuple[np.ndarray, np.ndarray, np.ndarray],
    edges: Edges,
    step: int,
) -> tuple[np.ndarray, np.ndarray]:
    """How well the masks of pairs overlap, and how well their places and areas agree: two arrays (P,) from 0 to 1.

    The overlap is the mean of two IoUs: hidden parts of the track count in one of them.

    Args:
        pairs: (P,) tracks and (P,) detections.
        counts: points that each pair shares (P,), that each track has in any detection or outside the frame (N,), and
            outside it (N,).
        edges: of the pairs.
    """
    if (library := rle.compiled_library()) is None:
        factors: Any = _factors_numpy(tracks, frame, pairs, counts, edges, step)
    else:
        own = (tracks.motion.variances, tracks.areas, tracks.observations, tracks.cut)
        measured = (*counts, edges.distances, edges.partial, frame.sizes)
        factors = np.empty((6, len(pairs[0])))
        call(library.mdqe_score_places, len(pairs[0]), *pairs, *measured, *own, step, _PLACES, _POWERS, factors)
    overlap, exponent, smaller, smaller_power, larger, larger_power = factors
    return overlap, np.asarray(np.exp(exponent) * smaller**smaller_power * larger**larger_power)


def _factors_numpy(
    tracks: LinkedTracks,
    frame: FramePoints,
    pairs: tuple[np.ndarray, np.ndarray],
    counts: tuple[np.ndarray, np.ndarray, np.ndarray],
    edges: Edges,
    step: int,
) -> tuple[np.ndarray, ...]:
    """For `score_places`: the overlap; the exponent for the distance; and the bases and powers for the areas."""
    (rows, columns), (shared, inside, outside) = pairs, counts
    areas, found = tracks.areas[rows], frame.sizes[columns]
    visible = shared / np.maximum(found + areas - np.maximum(inside[rows], shared), 1)
    plain = shared / np.maximum(found + areas - outside[rows] - shared, 1)
    growing = np.asarray(tracks.cut.any(axis=1))[rows] & (found > areas)  # it was never visible in full
    squares = (edges.distances / place_reach(tracks, rows, np.where(growing, found, areas), step)) ** 2
    ratio = found / areas
    smaller, larger = np.minimum(ratio, 1), np.minimum(1 / ratio, 1)
    powers = np.where(edges.partial, CUT, SMALLER), np.where(growing, CUT, LARGER)
    exponent = -0.5 * (squares[:, 0] + squares[:, 1])
    return 0.5 * (visible + plain), exponent, smaller, powers[0], larger, powers[1]


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
    call(library.mdqe_compare_edges, rows, detections, pairs, *own, *found, step, _EDGES, *measures, partial)
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
