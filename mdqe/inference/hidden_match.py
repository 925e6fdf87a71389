"""The second matching of a frame: tracks that other objects hide, with pieces of masks that appear beside these.

The box of a piece does not say where its object is. So the remembered mask of a track is moved until the part of it
that would be visible, beside the other detections and inside the frame, agrees with the piece.
"""

from __future__ import annotations

import numpy as np

from mdqe.inference.association import match_pairs
from mdqe.inference.frame_points import FramePoints
from mdqe.inference.frame_scores import BLOCK, DOUBT, LEAST_LOOKS, Detections, weight_of_other_labels
from mdqe.inference.linked_tracks import SAMPLES, LinkedTracks
from mdqe.inference.pair_places import compare_edges, place_reach
from mdqe.results import rle
from mdqe.results.foreign_call import call

LEAST = 0.08  # score of a pair; DOUBT of a low score is subtracted, as in the first matching
WIDER = 2.0  # factor of the reach of a place
MISMATCH = 4.0  # weight of the area that does not agree, relative to the track's area
COVERED = 0.3  # share of a track's predicted mask in other detections or out of frame, from which on it is hidden
PAIRS = 8  # that are compared at once, so that no frame needs much more memory than others
ROUNDING = 1e-6  # of scores
SPAN, STEPS = 0.8, 3  # masks are moved by up to SPAN of their size to each side, in so many steps, then in finer ones

_line = np.linspace(-SPAN, SPAN, 2 * STEPS + 1)
MOVES = np.stack(np.meshgrid(_line, _line), axis=-1).reshape(-1, 2)  # relative to the square root of the area


def match_hidden(
    tracks: LinkedTracks, detections: Detections, inside: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match those of the tracks `rows` that are hidden with those of the detections `columns` that are cut.

    Args:
        inside: (N,): points of each track's mask that are in any detection or outside the frame.

    Returns:
        (M,) tracks and (M,) detections of the matched pairs.
    """
    frame, scores, step = detections.points, detections.scores, detections.step
    rows = rows[(inside[rows] > 0) & (inside[rows] >= COVERED * tracks.areas[rows])]
    columns = columns[frame.cut[columns].any(axis=1)]
    row, column = _near_pairs(tracks, frame, rows, columns, step)
    looks, doubt = _looks(tracks, detections, row, column), DOUBT * (1 - scores[column])
    # At best, all of a track is visible: what the detection has beyond it does not agree.
    larger = np.maximum(frame.areas[column] / step**2 / tracks.areas[row] - 1, 0)
    possible = np.flatnonzero(np.exp(-MISMATCH * larger) * looks - doubt > LEAST - ROUNDING)
    row, column, looks, doubt = (array[possible] for array in (row, column, looks, doubt))
    costs = [
        least_cost(tracks, frame, row[i : i + PAIRS], column[i : i + PAIRS], step) for i in range(0, len(row), PAIRS)
    ]
    values = np.exp(-np.concatenate([np.zeros(0), *costs])) * looks - doubt
    kept = values > LEAST
    row, column = row[kept], column[kept]
    chosen = match_pairs(row, column, values[kept], (len(tracks), len(scores)))
    return row[chosen], column[chosen]


def _looks(tracks: LinkedTracks, detections: Detections, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How well the labels and embeddings of pairs (P,) agree, from 0 to 1."""
    labels, found = tracks.labels[rows], detections.labels[columns]
    different = (labels != found) & (labels >= 0) & (found >= 0)
    weight = np.where(different, weight_of_other_labels(tracks) if different.any() else 1.0, 1.0)
    a, b = tracks.embeddings[rows], detections.embeddings[columns]
    known = a.any(axis=1) & b.any(axis=1)
    return weight * np.where(known, LEAST_LOOKS + (1 - LEAST_LOOKS) * (a * b).sum(axis=1).clip(0, 1), 1.0)


def _near_pairs(
    tracks: LinkedTracks, frame: FramePoints, rows: np.ndarray, columns: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs whose places are so near that they can match, ascending."""
    found = [(rows[:0], columns[:0])]
    height = max(1, BLOCK // max(len(columns), 1))
    for begin in range(0, len(rows) if len(columns) else 0, height):
        some = rows[begin : begin + height, None]
        distances = compare_edges(tracks, frame, some, columns[None], step).distances
        reach = WIDER * place_reach(tracks, some, tracks.areas[some], step)
        row, column = np.nonzero(np.exp(-0.5 * ((distances / reach) ** 2).sum(axis=2)) > LEAST)
        found.append((some[row, 0], columns[column]))
    row, column = (np.concatenate(part) for part in zip(*found, strict=True))
    return row, column


def least_cost(
    tracks: LinkedTracks, frame: FramePoints, rows: np.ndarray, columns: np.ndarray, step: int
) -> np.ndarray:
    """The cost (P,) of the best place of each track, of those where a detection can be its visible part.

    The cost is that of the distance from the predicted place, and MISMATCH of the area that does not agree.
    """
    masks = [tracks.masks[row] for row in rows.tolist()]
    points = np.stack([mask[np.arange(SAMPLES) * len(mask) // SAMPLES] for mask in masks])  # (P, S, 2)
    points = points + ((tracks.motion.centres[rows] - tracks.places[rows]) / step)[:, None]
    areas = tracks.areas[rows]
    reach = WIDER * place_reach(tracks, rows, areas, step) / step
    share = frame.areas[columns] / step**2 / areas
    moves = MOVES * np.maximum(np.sqrt(areas), 2)[:, None, None]
    edges = compare_edges(tracks, frame, rows, columns, step).offsets / step
    first = np.concatenate([moves, edges[:, None]], axis=1)  # (P, K, 2)
    best = first[np.arange(len(rows)), _costs(frame, points, columns, share, first, reach).argmin(axis=1)]
    return _costs(frame, points, columns, share, best[:, None] + moves / STEPS, reach).min(axis=1)


def _costs(
    frame: FramePoints,
    points: np.ndarray,
    columns: np.ndarray,
    share: np.ndarray,
    moves: np.ndarray,
    reach: np.ndarray,
) -> np.ndarray:
    """The costs (P, K) of moving the points (P, S, 2) of tracks by `moves` (P, K, 2), in points of the grid.

    Args:
        share: (P,): area of the detection, relative to the track's.
        reach: (P, 2): standard deviation of the track's place.
    """
    shared, visible = _count_visible(frame, points, columns, moves) / SAMPLES
    differs = visible + share[:, None] - 2 * np.minimum(shared, np.minimum(visible, share[:, None]))
    return np.asarray(0.5 * ((moves / reach[:, None]) ** 2).sum(axis=2) + MISMATCH * differs)


def _count_visible(frame: FramePoints, points: np.ndarray, columns: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Counts (2, P, K) of the points (P, S, 2) after each of the `moves` (P, K, 2): those in the detections `columns`
    (P,), and these and those in the frame without any detection.
    """
    if (library := rle.compiled_library()) is None:
        counts = [_count_visible_numpy(frame, *one) for one in zip(points, columns, moves, strict=True)]
        return np.stack(counts, axis=1)
    found, sizes = np.empty((2, *moves.shape[:2]), np.int64), (*points.shape[:2], moves.shape[1])
    call(library.mdqe_count_visible, points, moves, columns, *sizes, *frame.shape, frame.grid, frame.counts, *found)
    return found


def _count_visible_numpy(frame: FramePoints, points: np.ndarray, column: int, moves: np.ndarray) -> np.ndarray:
    """As `_count_visible`, (2, K), of one detection: several would need much memory in a few frames."""
    height, width = frame.shape
    x, y = np.rint(points + moves[:, None]).transpose(2, 0, 1)  # (K, S)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = np.where(inside, y * width + x, 0).astype(np.int64)
    shared = frame.grid[column, places] & inside
    visible = shared | inside & (frame.counts[places] == 0)
    return np.stack([shared.sum(axis=1), visible.sum(axis=1)])
