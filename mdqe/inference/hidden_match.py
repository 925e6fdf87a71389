"""The second matching of a frame: tracks that other objects hide, with pieces of masks that appear beside these.

The box of a piece does not say where its object is. So the remembered mask of a track is moved until the part of it
that would be visible, beside the other detections and inside the frame, agrees with the piece.
"""

from __future__ import annotations

import numpy as np

from mdqe.inference.association import match_pairs
from mdqe.inference.frame_points import FramePoints
from mdqe.inference.frame_scores import BLOCK, DOUBT, LEAST_LOOKS, OTHER_LABEL, Detections, compare_edges, place_reach
from mdqe.inference.linked_tracks import SAMPLES, LinkedTracks

LEAST = 0.08  # score of a pair; DOUBT of a low score is subtracted, as in the first matching
WIDER = 2.0  # factor of the reach of a place
MISMATCH = 4.0  # weight of the area that does not agree, relative to the track's area
COVERED = 0.3  # share of a track's predicted mask in other detections or out of frame, from which on it is hidden
SPAN, STEPS = 0.8, 3  # masks are moved by up to SPAN of their size to each side, in so many steps, then in finer ones


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
    # One pair at a time: there are few, and together they would need much memory in a few frames.
    costs = [least_cost(tracks, frame, row[i : i + 1], column[i : i + 1], step) for i in range(len(row))]
    places = np.exp(-np.concatenate([np.zeros(0), *costs])) * _looks(tracks, detections, row, column)
    values = places - DOUBT * (1 - scores[column])
    kept = values > LEAST
    row, column = row[kept], column[kept]
    chosen = match_pairs(row, column, values[kept], (len(tracks), len(scores)))
    return row[chosen], column[chosen]


def _looks(tracks: LinkedTracks, detections: Detections, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How well the labels and embeddings of pairs (P,) agree, from 0 to 1."""
    labels, found = tracks.labels[rows], detections.labels[columns]
    weight = np.where((labels != found) & (labels >= 0) & (found >= 0), OTHER_LABEL, 1.0)
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
    line = np.linspace(-SPAN, SPAN, 2 * STEPS + 1)
    moves = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2) * np.sqrt(areas).clip(2)[:, None, None]
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
    height, width = frame.shape
    x, y = np.rint(points[:, None] + moves[:, :, None]).astype(np.int64).transpose(3, 0, 1, 2)  # (P, K, S)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = np.where(inside, y * width + x, 0)
    shared = frame.grid[columns[:, None, None], places] & inside
    visible = (shared | inside & (frame.counts[places] == 0)).mean(axis=2)
    differs = visible + share[:, None] - 2 * np.minimum(shared.mean(axis=2), np.minimum(visible, share[:, None]))
    return np.asarray(0.5 * ((moves / reach[:, None]) ** 2).sum(axis=2) + MISMATCH * differs)
