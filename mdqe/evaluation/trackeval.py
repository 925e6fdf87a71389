"""The numbers of TrackEval under its names, from the counts of `mdqe.evaluation.identity`."""

import math
from typing import Any

import numpy as np

from mdqe.evaluation.identity import IdentityCounts


def hota(counts: IdentityCounts) -> dict[str, np.ndarray]:
    """HOTA and its parts at the 19 thresholds; 0 where there is nothing to count, and 1 as the localisation."""
    true, misses, extra = counts.true, counts.objects - counts.true, counts.tracks - counts.true
    matched = np.maximum(true, 1)
    recall, precision = true / np.maximum(counts.objects, 1), true / np.maximum(counts.tracks, 1)
    detection = true / np.maximum(true + misses + extra, 1)
    association = counts.association / matched
    return {
        "HOTA": np.sqrt(detection * association),
        "DetA": detection,
        "AssA": association,
        "DetRe": recall,
        "DetPr": precision,
        "AssRe": counts.recalled / matched,
        "AssPr": counts.precise / matched,
        "LocA": np.maximum(counts.located, 1e-10) / np.maximum(true, 1e-10),
        "OWTA": np.sqrt(recall * association),
        "HOTA_TP": true,
        "HOTA_FN": misses,
        "HOTA_FP": extra,
    }


def hota_with_firsts(counts: IdentityCounts) -> dict[str, Any]:
    """`hota` as lists, with the values at the first threshold, 0.05."""
    numbers = hota(counts)
    first = {name: float(numbers[name][0]) for name in ("HOTA", "LocA")}
    both = first["HOTA"] * first["LocA"]
    return {**_lists(numbers), "HOTA(0)": first["HOTA"], "LocA(0)": first["LocA"], "HOTALocA(0)": both}


def means(numbers: dict[str, Any]) -> dict[str, float]:
    """Lists replaced by their means."""
    return {name: float(np.mean(one)) for name, one in numbers.items()}


def clear(counts: IdentityCounts, frames: int) -> dict[str, float]:
    """CLEAR MOT of sequences with objects and tracks, which have this number of frames together."""
    true, misses, extra = counts.matched, counts.objects - counts.matched, counts.tracks - counts.matched
    objects = counts.mostly_tracked + counts.partly_tracked + counts.mostly_lost
    masks = max(counts.objects, 1)
    log_switches = math.log10(counts.switches) if counts.switches else 0
    return {
        "MOTA": (true - extra - counts.switches) / masks,
        "MOTP": counts.overlap / max(true, 1),
        "MODA": (true - extra) / masks,
        "CLR_Re": true / masks,
        "CLR_Pr": true / max(counts.tracks, 1),
        "MTR": counts.mostly_tracked / max(objects, 1),
        "PTR": counts.partly_tracked / max(objects, 1),
        "MLR": counts.mostly_lost / max(objects, 1),
        "sMOTA": (counts.overlap - extra - counts.switches) / masks,
        "CLR_F1": true / max(true + 0.5 * misses + 0.5 * extra, 1),
        "FP_per_frame": extra / max(frames, 1),
        "MOTAL": (true - extra - log_switches) / masks,
        "MOTP_sum": counts.overlap,
        "CLR_TP": true,
        "CLR_FN": misses,
        "CLR_FP": extra,
        "IDSW": counts.switches,
        "MT": counts.mostly_tracked,
        "PT": counts.partly_tracked,
        "ML": counts.mostly_lost,
        "Frag": counts.fragments,
        "CLR_Frames": frames,
    }


def clear_without(counts: IdentityCounts) -> dict[str, float]:
    """CLEAR MOT of a sequence without objects or without tracks: only the misses or the extra tracks are counted."""
    only = ("CLR_FN", "ML") if counts.objects else ("CLR_FP",)
    numbers = clear(counts, 0)
    return {name: numbers[name] if name in only else 0 for name in numbers} | {"MLR": 1.0}


def identity(counts: IdentityCounts) -> dict[str, float]:
    """IDF1 and its parts."""
    true, misses, extra = counts.identical, counts.objects - counts.identical, counts.tracks - counts.identical
    return {
        "IDF1": true / max(true + 0.5 * misses + 0.5 * extra, 1),
        "IDR": true / max(counts.objects, 1),
        "IDP": true / max(counts.tracks, 1),
        "IDTP": true,
        "IDFN": misses,
        "IDFP": extra,
    }


def _lists(numbers: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: one.tolist() for name, one in numbers.items()}
