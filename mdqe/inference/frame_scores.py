"""Comparison of the tracks of a `mdqe.Linker`, moved to their predicted places, with the detections of a frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mdqe.inference.frame_points import FramePoints
from mdqe.inference.linked_tracks import SAMPLES, LinkedTracks, doubled_centres
from mdqe.inference.pair_places import MATCH, compare_edges, near_pairs, score_places
from mdqe.results import rle
from mdqe.results.foreign_call import call

SHAPE, ABSENT = 0.5, 0.1  # most that alike shapes add to the score of a pair; what a track adds that was absent
YOUNG, YOUNG_WEIGHT = 3, 0.8  # tracks with fewer observations, and the weight of their scores
OTHER_LABEL = 0.4  # least weight of the score of a pair with different labels
WRONG, LABELLED = 1, 20  # wrong labels among so many that are assumed before any were seen
NEW = 0.05  # least share of pairs of different objects that have different labels
DOUBT = 0.7  # weight of 1 − score of a detection
PART = 0.65  # a mask that covers this share of several tracks has several objects
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
    other_label = weight_of_other_labels(tracks) if (labels >= 0).any() else 1.0
    parts = []
    height = max(1, BLOCK // max(size, 1))
    for begin in range(0, number, height):  # in blocks, for frames of many detections
        block = slice(begin, begin + height)
        counts, inside[block], outside[block] = _count_shared(tracks, frame, block, step)
        contents += (counts > PART * tracks.areas[block, None]).sum(axis=0)
        row, column = near_pairs(tracks, frame, block, counts, step)
        shared, weight = counts[row - begin, column], young[row]
        if other_label < 1:
            own, other = tracks.labels[row], labels[column]
            weight = np.where((own != other) & (own >= 0) & (other >= 0), other_label, 1.0) * weight
        if best is not None:
            looks = appearance(tracks.embeddings, embeddings, block, (row, column), best)
            weight = weight * (LEAST_LOOKS + (1 - LEAST_LOOKS) * looks)
        edges = compare_edges(tracks, frame, row, column, step)
        overlaps, places = score_places(tracks, frame, (row, column), (shared, inside, outside), edges, step)
        scores = overlaps * weight + (places * weight - DOUBT * (1 - confidence[column]))
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


def weight_of_other_labels(tracks: LinkedTracks) -> float:
    """The weight of the score of a pair whose labels differ: near 1 if labels are often wrong, or tell little.

    This is how probable a wrong label is, relative to any label that differs. It is measured on the tracks: labels that
    differ from the others of their track are wrong, and the labels of two tracks differ if their objects do.
    """
    wrong = WRONG + (tracks.labelled - tracks.votes).sum() / 2
    wrong = wrong / (LABELLED + (tracks.labelled - 1).clip(0).sum())
    _, counts = np.unique(tracks.labels[tracks.labelled >= YOUNG], return_counts=True)
    number = counts.sum()
    other = max(1 - (counts * (counts - 1)).sum() / max(number * (number - 1), 1), NEW) if number > 1 else NEW
    return float(max(OTHER_LABEL, wrong / (wrong + other)))


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
    shared = np.empty(len(rows), np.int64)
    if (library := rle.compiled_library()) is not None:
        arrays = (tracks.outlines, rows, columns, frame.boxes)
        call(library.mdqe_count_outlines, *arrays, step, len(rows), SAMPLES, *frame.shape, frame.grid, shared)
        return shared
    (height, width), centres = frame.shape, doubled_centres(frame, columns, step)
    for begin in range(0, len(rows), BLOCK // SAMPLES):
        some = slice(begin, begin + BLOCK // SAMPLES)
        x, y = ((tracks.outlines[rows[some]] + centres[some, None]) // 2).transpose(2, 0, 1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        covered = frame.grid[columns[some, None], np.where(inside, y * width + x, 0)] & inside
        shared[some] = covered.sum(axis=1)
    return shared


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
    shifts = np.minimum(np.maximum(np.rint(moves), -(10**6)), 10**6).astype(np.int64)
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
