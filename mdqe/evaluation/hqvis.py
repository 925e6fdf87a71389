"""The metrics of HQ-YTVIS: average precision by the IoU of tubes, and by the IoU of their boundaries.

Tube-mask AP is that of YouTube-VIS. Tube-boundary AP uses the smaller one of two IoUs: that of the masks, and that of
their boundaries. The boundary of a mask is its pixels within d pixels (in the maximum norm) of a pixel outside; pixels
beyond the frame are outside. d is 2 % of the diagonal of the frame. The boundary of an object is that of its mask in
"segmentations_refined" where the file has them. A crowd is compared by its mask alone.

Ke et al., Video Mask Transfiner for High-Quality Video Instance Segmentation, ECCV 2022.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdqe.annotations.files import Loaded, Source
from mdqe.annotations.masks import Mask, to_rle
from mdqe.annotations.reader import VIDEOS, Track, Video, compress_tracks, load_annotations, read_annotations
from mdqe.annotations.results import read_results
from mdqe.evaluation.overlap import overlap, tube_ious
from mdqe.evaluation.tubes import averages, category_curves, compare_tubes, official, report
from mdqe.evaluation.ytvis import warn_of_objects
from mdqe.results import rle

REFINED = "segmentations_refined"
DILATION = 0.02
"""The width of a boundary, as a share of the diagonal of the frame."""


def evaluate_hqvis(
    annotations: Source,
    results: Source,
    *,
    identity: bool = True,
    score_threshold: float = 0.3,
    per_video: bool = False,
    precision_curves: bool = False,
) -> dict[str, Any]:
    """Compare results with the annotations of HQ-YTVIS.

    Args:
        annotations: a path or the loaded JSON, in the form of YouTube-VIS. An annotation may have
            "segmentations_refined", whose boundaries replace those of "segmentations".
        results, identity, score_threshold, per_video, precision_curves: as in
            `mdqe.evaluation.ytvis.evaluate_ytvis`.

    Returns:
        What `evaluate_ytvis` returns, without the metrics by degree of occlusion. "official" has "tube_mask" and
        "tube_boundary", each with the twelve metrics of the official evaluator, and "per_category": "AP", "AP50",
        "AR1", "AR10" and "AR100" by category id.

    Raises:
        OSError: a file cannot be read.
        InputError: a file is not JSON or has invalid records.

    Warns:
        UserWarning: as `evaluate_ytvis`.
    """
    loaded = load_annotations(annotations)
    truth = read_annotations(loaded)
    truth.expect(VIDEOS, "; evaluate_coco compares images")
    found = read_results(results, truth)
    warn_of_objects(truth)
    refined = _refined(loaded)

    def boundary(video: Video, tracks: Sequence[Track], objects: Sequence[Track], ious: np.ndarray) -> np.ndarray:
        return _with_boundaries(video, (found.name, tracks), (truth.name, objects), refined, ious)

    videos = compare_tubes(truth, found, score_threshold=score_threshold, identity=identity)
    numbers, lines = report(videos, truth, identity=identity, per_video=per_video, precision_curves=precision_curves)
    by_boundary = category_curves(compare_tubes(truth, found, identity=False, refine=boundary).values())
    numbers["official"] = {}
    for name, curves in (("tube_mask", lines), ("tube_boundary", by_boundary)):
        each = {number: averages([curves.get(number, [])]) for number in truth.categories}
        keys = ("AP", "AP50", "AR1", "AR10", "AR100")
        categories = {number: {key: one[key] for key in keys} for number, one in each.items()}
        numbers["official"][name] = official(averages(curves.values())) | {"per_category": categories}
    return numbers


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether annotations are those of HQ-YTVIS: one has refined masks."""
    annotations = document.get("annotations")
    return isinstance(annotations, list) and any(isinstance(one, Mapping) and REFINED in one for one in annotations)


def boundaries(counts: Sequence[rle.Counts], size: tuple[int, int]) -> list[str]:
    """The RLEs of the boundaries of masks of H, W. One mask is decoded at a time."""
    width = max(1, round(DILATION * math.sqrt(size[0] ** 2 + size[1] ** 2)))
    found = []
    for one in counts:
        (mask,) = rle.decode([one], size)
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            # An eroded mask depends only on its own pixels, since those beyond its box are outside.
            part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            part &= ~_erode(_erode(part, width).T, width).T
        found += rle.encode(mask[None])
    return found


def _erode(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a mask (H, W) whose neighbours up to `width` rows above and below are all in the mask."""
    height = len(mask)
    inside = np.zeros_like(mask)
    if height <= 2 * width:
        return inside
    # The windows of rows are combined: one of 2 n rows is two of n rows, so that the number of steps is a logarithm.
    window, rows = mask, 1
    while rows < 2 * width + 1:
        step = min(rows, 2 * width + 1 - rows)
        window = window[: len(window) - step] & window[step:]
        rows += step
    inside[width : height - width] = window
    return inside


def _refined(loaded: Loaded) -> dict[int, list[Mask | None]]:
    """The masks with the boundaries of the objects, by the id of the annotation; empty if none is refined."""
    document = loaded.document
    if not recognises(document):
        return {}
    refined = [
        one if one.get(REFINED) is None else {**one, "segmentations": one[REFINED]} for one in document["annotations"]
    ]
    read = read_annotations(Loaded(f"{loaded.name} ({REFINED})", {**document, "annotations": refined}))
    return {one.id: one.masks for one in read.objects}


def _with_boundaries(
    video: Video,
    found: tuple[str, Sequence[Track]],
    truth: tuple[str, Sequence[Track]],
    refined: Mapping[int, list[Mask | None]],
    ious: np.ndarray,
) -> np.ndarray:
    """The smaller one of the IoUs (D, G) of masks and of boundaries; that of masks for crowds."""
    if not ious.size:
        return ious

    def edges(tracks: Sequence[Track], masks: Mapping[int, list[Mask | None]]) -> list[Track]:
        drawn = []
        for track in tracks:
            own = track.masks
            if track.id in masks:  # these have not been compared, so their counts are unchecked
                exact = track._replace(masks=masks[track.id])
                own = compress_tracks(f"{truth[0]} ({REFINED})", VIDEOS, [exact], video.size)[0].masks
            lines = iter(boundaries([to_rle(one, video.size) for one in own if one is not None], video.size))
            drawn.append(track._replace(masks=[None if one is None else next(lines) for one in own]))
        return drawn

    results, objects = edges(found[1], {}), edges(truth[1], refined)
    of_boundaries = tube_ious(overlap((found[0], results), (truth[0], objects), video.size, video.length))
    crowd = np.array([one.is_crowd for one in objects], bool)
    return np.where(crowd, ious, np.minimum(ious, of_boundaries))
