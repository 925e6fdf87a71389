"""How much the objects of a data set are occluded, by the labels of OVIS."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from mdqe.annotations.reader import DEGREES
from mdqe.errors import InputError


class OcclusionShares(NamedTuple):
    """Shares from 0 to 1."""

    none: float
    """Of the masks of objects, those that are not occluded."""
    slight: float
    severe: float
    severe_once: float
    """Of the objects, those that are severely occluded in at least one frame in which they are visible."""
    never: float
    """Of the objects, those that are occluded in no frame."""
    gone: float
    """Of the objects, those that others hide completely for at least three frames, and that are visible before and
    afterwards."""


OVIS = OcclusionShares(0.182, 0.555, 0.263, 0.802, 0.02, math.nan)
"""Of OVIS, as the paper states them (Sec. 4); it does not state `gone`."""
GONE = 3
"""The minimum number of frames of `gone`."""
_NONE, _SLIGHT, _SEVERE = sorted(DEGREES, key=lambda name: DEGREES[name])


def occlusion_shares(document: Mapping[str, Any]) -> OcclusionShares:
    """The shares of a data set.

    Args:
        document: an annotation file with the labels of OVIS in "occlusion", which count in frames with a mask. Without
            the "occlusion_degree" of `mdqe make-data`, `gone` is NaN: a frame without a mask may be one in which the
            object is hidden, or outside the image.

    Raises:
        InputError: no visible object has labels.
    """
    labels: Counter[str] = Counter()
    objects = severe_once = never = gone = 0
    knows_gone = True
    for one in document["annotations"]:
        visible = [mask is not None and mask != [] for mask in one["segmentations"]]
        seen = [label for label, is_seen in zip(one.get("occlusion") or (), visible, strict=False) if is_seen and label]
        if seen:
            labels.update(seen)
            objects += 1
            severe_once += _SEVERE in seen
            never += set(seen) == {_NONE}
            knows_gone &= "occlusion_degree" in one
            gone += _longest_gap(visible, one.get("occlusion_degree", [])) >= GONE
    if not objects:
        raise InputError("no annotation has labels of occlusion")
    none, slight, severe = (labels[name] / labels.total() for name in (_NONE, _SLIGHT, _SEVERE))
    share = gone / objects if knows_gone else math.nan
    return OcclusionShares(none, slight, severe, severe_once / objects, never / objects, share)


def occlusion_table(shares: Mapping[str, OcclusionShares]) -> str:
    """A line for each data set, in percent, below the names of the columns; "-" where a share is unknown."""
    columns = ("not", "slightly", "severely", "severely once", "never", f"hidden {GONE}+ frames")
    width = max(map(len, shares), default=0)
    lines = [" " * width + "  " + "  ".join(columns)]
    for name, one in shares.items():
        cells = ["-" if math.isnan(value) else f"{100 * value:.1f}" for value in one]
        lines.append(f"{name:<{width}}  " + "  ".join(map(str.rjust, cells, map(len, columns))))
    return "\n".join(lines)


def _longest_gap(visible: Sequence[bool], degrees: Sequence[float | None]) -> int:
    """The largest number of frames between two in which an object is visible, in which it is completely hidden."""
    places = [t for t, one in enumerate(visible) if one]
    gaps = (degrees[before + 1 : after] for before, after in pairwise(places))
    return max((sum(degree == 1 for degree in gap) for gap in gaps), default=0)
