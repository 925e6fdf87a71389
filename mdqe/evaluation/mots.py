"""The metrics of KITTI MOTS and MOTSChallenge: sMOTSA, MOTSA, MOTSP and identity switches, and those of TrackEval.

In each frame, an object and a result with an IoU above 0.5 match; there is at most one, because the masks of a frame do
not overlap. A result without a match is ignored if more than half of it is in the regions to ignore. TrackEval counts
an IoU of exactly 0.5 as a match too, and has its own rules for fragments and for sequences without objects or results.

Voigtlaender et al., MOTS: Multi-Object Tracking and Segmentation, CVPR 2019.
"""

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from mdqe.annotations.files import Source
from mdqe.annotations.mots import CATEGORIES, IGNORED
from mdqe.errors import InputError
from mdqe.evaluation import trackeval
from mdqe.evaluation.identity import EPSILON, MATCH, Frame, IdentityCounts, compare_frames
from mdqe.evaluation.mots_files import Frames, find_results, find_truth, read_sequence
from mdqe.evaluation.overlap import frame_overlap

PEDESTRIAN = 2


@dataclass
class MotsCounts:
    """The counts of mots_tools for a class, which add up over sequences."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    id_switches: int = 0
    fragments: int = 0
    n_gt: int = 0
    n_gt_trajectories: int = 0
    n_tr: int = 0
    n_tr_trajectories: int = 0
    n_itr: int = 0
    """Results that are ignored."""
    total_cost: float = 0.0
    """The sum of the IoUs of the matches."""
    total_num_frames: int = 0
    precision_sum: float = 0.0
    """The sum of the mean IoUs of the matches of each frame."""
    tracked: np.ndarray = field(default_factory=lambda: np.zeros(3, int))
    """(3,): objects that are mostly tracked, partly tracked and mostly lost."""

    def __add__(self, other: "MotsCounts") -> "MotsCounts":
        return MotsCounts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def numbers(self) -> dict[str, float]:
        """The numbers of mots_tools; ±∞ where there is nothing to divide by."""
        found, objects = self.tp and (self.tp / self.n_gt, self.tp / (self.tp + self.fp)), self.n_gt
        recall, precision = found or (0.0, 0.0)
        wrong = self.fn + self.fp
        log_switches = math.log10(self.id_switches) if self.id_switches else 0

        def share(errors: float) -> float:
            return 1 - errors / objects if objects else -math.inf

        tracked = (self.tracked / max(self.n_gt_trajectories, 1)).tolist()
        soft = (self.total_cost - self.fp - self.id_switches) / objects if objects else -math.inf
        return {
            "sMOTSA": soft,
            "MOTSA": share(wrong + self.id_switches),
            "MOTSP": self.total_cost / self.tp if self.tp else math.inf,
            "MOTSAL": share(wrong + log_switches),
            "MODSA": share(wrong),
            "MODSP": self.precision_sum / max(self.total_num_frames, 1),
            "recall": recall,
            "precision": precision,
            "F1": 2 * precision * recall / (precision + recall) if found else 0.0,
            "FAR": self.fp / max(self.total_num_frames, 1),
            **dict(zip(("MT", "PT", "ML"), tracked, strict=True)),
            **{name: getattr(self, name) for name in COUNTS},
        }


COUNTS = (
    "tp", "fp", "fn", "id_switches", "fragments", "n_gt", "n_gt_trajectories", "n_tr", "n_tr_trajectories", "n_itr",
    "total_cost", "total_num_frames",
)  # fmt: skip


class Pairs(NamedTuple):
    """The g objects and d results of a class in a frame."""

    objects: list[int]
    results: list[int]
    """Their ids."""
    ious: np.ndarray
    """(g, d)."""
    inside: np.ndarray
    """(d,): the share of each result that is in the regions to ignore."""


def evaluate_mots(annotations: Source, results: Source) -> dict[str, Any]:
    """Compare results with the annotations of KITTI MOTS or MOTSChallenge.

    Args:
        annotations: the folder of the annotations, as text files or PNG images, or a file with a sequence map: see
            `mdqe.evaluation.mots_files.find_truth`.
        results: the folder of the results: SEQUENCE.txt or SEQUENCE/000000.png.

    Returns:
        "official": for "car" and "pedestrian" the numbers of mots_tools, over "all" sequences and by the name of the
        sequence, from 0 to 1 apart from counts, ±∞ where there is nothing to divide by: "sMOTSA", "MOTSA", "MOTSP",
        "id_switches" and others; and "trackeval": by sequence, and as "COMBINED_SEQ", "HOTA", "CLEAR", "Identity" and
        "Count" of each class (pedestrian alone in MOTSChallenge). HOTA's numbers are means over its 19 thresholds in a
        sequence and lists in "COMBINED_SEQ".

    Raises:
        OSError: a file or folder does not exist.
        InputError: a file is invalid, or masks of a frame overlap; the message names the file and the line.

    Warns:
        UserWarning: results in frames that are not in the sequence, which are ignored.
    """
    sequences = find_truth(_folder(annotations, "annotations"))
    found = find_results(_folder(results, "results"), list(sequences.paths))
    by_class: dict[int, dict[str, tuple[MotsCounts, IdentityCounts, dict[str, int]]]] = {one: {} for one in CATEGORIES}
    for name, path in sequences.paths.items():
        truth, tracks = read_sequence(path), read_sequence(found[name])
        last = sequences.lasts[name]
        if last is None:
            last = max([*truth, *tracks], default=0)
        frames = range(sequences.first, last + 1)
        if beyond := [number for number in tracks if number not in frames]:
            warnings.warn(
                f"{found[name]}: {len(beyond)} frames are not in the sequence ({sorted(beyond)[:4]}); they are ignored",
                stacklevel=3,
            )
        for kind in CATEGORIES:
            pairs = [_pairs(truth, tracks, number, kind) for number in sorted({*truth, *tracks}) if number in frames]
            # mots_tools counts frames from 0, also where they are numbered from 1
            by_class[kind][name] = _count(pairs, last + 1), *_identities(pairs, len(frames))
    official: dict[str, Any] = {}
    for kind, name in CATEGORIES.items():
        parts = {sequence: counts for sequence, (counts, _, _) in by_class[kind].items()}
        total = sum(parts.values(), MotsCounts())
        official[name] = {key: one.numbers() for key, one in {"all": total, **parts}.items()}
    kinds = [PEDESTRIAN] if sequences.first else list(CATEGORIES)
    official["trackeval"] = {
        name: {CATEGORIES[kind]: _sequence_numbers(*by_class[kind][name][1:]) for kind in kinds}
        for name in sequences.paths
    }
    official["trackeval"]["COMBINED_SEQ"] = {
        CATEGORIES[kind]: _combined_numbers([one[1:] for one in by_class[kind].values()]) for kind in kinds
    }
    return {"official": official}


def _folder(source: Source, name: str) -> Path:
    try:
        return Path(source)
    except TypeError:
        raise InputError(f"{name} of MOTS are a {type(source).__name__}; expected the path of a folder") from None


def _pairs(truth: Frames, tracks: Frames, number: int, kind: int) -> Pairs:
    objects = [one for one in truth.get(number, ()) if one.kind == kind]
    regions = [one for one in truth.get(number, ()) if one.kind == IGNORED]
    results = [one for one in tracks.get(number, ()) if one.kind == kind]
    lines = [*objects, *regions]
    ids = [one.object for one in objects], [one.object for one in results]
    if not results:
        return Pairs(*ids, np.zeros((len(objects), 0)), np.zeros(0))
    size = results[0].size
    for line in lines:
        if line.size != size:
            raise InputError(f"{results[0].label}: the size of the image is {list(size)}; expected {list(line.size)}")
    areas, own, shared = frame_overlap([one.counts for one in results], [one.counts for one in lines], size)
    areas, common = areas[:, 0], shared[..., 0]  # (d,), (d, g + regions)
    inside = common[:, len(objects) :].sum(axis=1) / np.maximum(areas, 1)
    common = common[:, : len(objects)].T
    union = own[: len(objects)] + areas - common
    return Pairs(*ids, common / np.maximum(union, 1), inside)


def _count(pairs: list[Pairs], frames: int) -> MotsCounts:
    """The counts of mots_tools for a class of a sequence with this number of frames."""
    counts = MotsCounts(total_num_frames=frames, precision_sum=frames - len(pairs))
    followed: dict[int, list[int]] = defaultdict(list)  # for each object, the result in each of its frames, or -1
    tracks: set[int] = set()
    for objects, results, ious, inside in pairs:
        rows, columns = np.nonzero(ious > MATCH)
        total = float(ious[rows, columns].sum())
        ignored = int(((inside > MATCH) & ~(ious > MATCH).any(axis=0)).sum())
        counts.tp += len(rows)
        counts.total_cost += total
        counts.precision_sum += total / len(rows) if len(rows) else 1
        counts.n_itr += ignored
        counts.fn += len(objects) - len(rows)
        counts.fp += len(results) - len(rows) - ignored
        counts.n_gt += len(objects)
        counts.n_tr += len(results)
        tracks.update(results)
        matched = {objects[row]: results[column] for row, column in zip(rows, columns, strict=True)}
        for one in objects:
            followed[one].append(matched.get(one, -1))
    counts.n_gt_trajectories, counts.n_tr_trajectories = len(followed), len(tracks)
    for line in followed.values():
        switches, fragments = _breaks(line)
        counts.id_switches += switches
        counts.fragments += fragments
        share = sum(one != -1 for one in line) / len(line)
        counts.tracked[0 if share > 0.8 else 2 if share < 0.2 else 1] += 1
    return counts


def _breaks(line: list[int]) -> tuple[int, int]:
    """Identity switches and fragments of an object with these results, -1 where it has none.

    A fragment begins at a match with another result than in the frame before, if there was an earlier match and the
    next frame is matched too. In the last frame, mots_tools has neither condition.
    """
    last, switches, fragments = line[0], 0, 0
    for f in range(1, len(line)):
        now = line[f]
        switches += last not in (-1, now) and now != -1
        goes_on = f == len(line) - 1 or line[f + 1] != -1
        known = last != -1 or f == len(line) - 1
        fragments += goes_on and known and now not in (-1, line[f - 1])
        last = now if now != -1 else last
    return switches, fragments


def _identities(pairs: list[Pairs], frames: int) -> tuple[IdentityCounts, dict[str, int]]:
    """TrackEval's counts of a class of a sequence, and the numbers of masks, of ids and of frames."""
    objects, tracks = Counter[int](), Counter[int]()
    kept = []
    for one in pairs:
        free = np.ones(len(one.results), bool)
        if one.ious.size:
            values = np.where(one.ious < MATCH - EPSILON, -10000, one.ious)
            rows, columns = linear_sum_assignment(values, maximize=True)
            free[columns[values[rows, columns] > EPSILON]] = False
        left = np.flatnonzero(~(free & (one.inside > MATCH + EPSILON)))
        results = [one.results[i] for i in left]
        objects.update(one.objects)
        tracks.update(results)
        kept.append((one.objects, results, one.ious[:, left]))
    rows, columns = ({name: i for i, name in enumerate(counter)} for counter in (objects, tracks))
    matched = [
        Frame(np.array([rows[name] for name in own]), np.array([columns[name] for name in results]), ious)
        for own, results, ious in kept
        if own and results
    ]
    counts = compare_frames(matched, np.array([*objects.values()], int), np.array([*tracks.values()], int))
    sizes = {"Dets": counts.tracks, "GT_Dets": counts.objects, "IDs": len(tracks), "GT_IDs": len(objects)}
    return counts, {**sizes, "Frames": frames}


def _sequence_numbers(counts: IdentityCounts, sizes: Mapping[str, int]) -> dict[str, Any]:
    both = counts.objects and counts.tracks
    return {
        "HOTA": trackeval.means(trackeval.hota_with_firsts(counts)),
        "CLEAR": trackeval.clear(counts, sizes["Frames"]) if both else trackeval.clear_without(counts),
        "Identity": trackeval.identity(counts),
        "Count": dict(sizes),
    }


def _combined_numbers(parts: list[Any]) -> dict[str, Any]:
    total = sum((counts for counts, _ in parts), IdentityCounts())
    frames = sum(sizes["Frames"] for counts, sizes in parts if counts.objects and counts.tracks)
    return {
        "HOTA": trackeval.hota_with_firsts(total),
        "CLEAR": trackeval.clear(total, frames),
        "Identity": trackeval.identity(total),
        "Count": {name: sum(sizes[name] for _, sizes in parts) for name in ("Dets", "GT_Dets", "IDs", "GT_IDs")},
    }
