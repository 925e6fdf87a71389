"""Sets of IoUs with ties, and their numbers here and by TrackEval, for the tests of identities."""

import numpy as np

from mdqe.evaluation.identity import compare_identities

CLEAR = ("IDSW", "CLR_TP", "MOTP_sum", "Frag", "MT", "PT", "ML")
"""The numbers of CLEAR at the end of `numbers_of`."""


def tied(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `sequence`, with few different IoUs, so that several assignments are equally good, and absent objects."""
    random = np.random.default_rng(seed)
    objects, tracks, frames = (int(random.integers(1, most)) for most in (7, 7, 9))
    present, seen = (random.random((one, frames)) < random.choice([0.4, 0.8, 1]) for one in (objects, tracks))
    present[0] &= objects == 1 or seed % 3 > 0
    steps = int(random.integers(2, 6))
    ious = random.integers(0, steps + 1, (objects, tracks, frames)) / steps
    return ious * (random.random(ious.shape) < 0.7) * present[:, None] * seen, 1.0 * present, 1.0 * seen


def numbers_of(ious, objects, tracks) -> list[float]:
    """Numbers that depend on every match."""
    counts = compare_identities(ious, objects, tracks)
    matched = np.maximum(counts.true, 1)
    named = [counts.true, counts.association / matched, counts.recalled / matched, counts.precise / matched]
    clear = [counts.identical, counts.switches, counts.matched, counts.overlap, counts.fragments]
    tracked = [counts.mostly_tracked, counts.partly_tracked, counts.mostly_lost]
    return [*(float(one.mean()) for one in named), *clear, *tracked]


def trackeval_of(ious, objects, tracks):
    """HOTA, Identity and CLEAR of TrackEval."""
    from trackeval import metrics

    # TrackEval counts ids without gaps: those that are ever there.
    ious = ious[objects.any(axis=1)][:, tracks.any(axis=1)]
    objects, tracks = objects[objects.any(axis=1)], tracks[tracks.any(axis=1)]
    frames = range(ious.shape[2])
    data = {
        "num_gt_ids": len(objects),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": int((objects > 0).sum()),
        "num_tracker_dets": int((tracks > 0).sum()),
        "num_timesteps": len(frames),
        "gt_ids": [np.flatnonzero(objects[:, t]) for t in frames],
        "tracker_ids": [np.flatnonzero(tracks[:, t]) for t in frames],
    }
    data["similarity_scores"] = [ious[..., t][np.ix_(data["gt_ids"][t], data["tracker_ids"][t])] for t in frames]
    quiet = {"PRINT_CONFIG": False}
    parts = metrics.HOTA(), metrics.Identity(quiet), metrics.CLEAR(quiet)
    return [part.eval_sequence(data) for part in parts]
