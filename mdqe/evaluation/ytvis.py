"""The metrics of YouTube-VIS and OVIS."""

import warnings
from typing import Any

from mdqe.annotations.files import Source
from mdqe.annotations.reader import VIDEOS, Annotations, read_annotations
from mdqe.annotations.results import read_results
from mdqe.evaluation.tubes import compare_tubes, official, report


def evaluate_ytvis(
    annotations: Source,
    results: Source,
    *,
    identity: bool = True,
    score_threshold: float = 0.3,
    per_video: bool = False,
    precision_curves: bool = False,
) -> dict[str, Any]:
    """Compare results with annotations.

    Args:
        annotations: a path or the loaded JSON, in the form of YouTube-VIS; or what `read_annotations` made of it. With
            the "occlusion" labels of OVIS, metrics by degree of occlusion are included.
        results: a path or the loaded JSON: a list of results in the form of YouTube-VIS.
        identity: compute HOTA, IDF1 and identity switches.
        score_threshold: of these metrics, which need a decision: they use results with at least this score, and only
            the best result of each "track_id" in a video. A result without a "track_id" is a track of its own.
        per_video: include the metrics of each video alone.
        precision_curves: include the precision at 101 recalls.

    Returns:
        Metrics from 0 to 1, as the official evaluators compute them, −1.0 where there is no object to count:

        - "AP" (mean over IoU thresholds 0.5 … 0.95 and categories), "AP50", "AP75"; "APs", "APm", "APl" of small
          (area up to 128²), medium and large objects (from 256²); "AR1", "AR10", "AR100" with the best 1, 10 and 100
          results per video and category; "ARs", "ARm", "ARl". The area of an object is the mean of its "areas" over the
          frames where they are not 0; without "areas", that of its masks;
        - "AP_so", "AP_mo", "AP_ho", "AR_so", "AR_mo", "AR_ho" where every object has occlusion labels: objects whose
          degree, the mean of the upper half of their frames' degrees (none 0, slight 0.25, severe 0.75), is within
          0 … 0.25, 0.25 … 0.5 and 0.5 … 1;
        - "HOTA", "DetA", "AssA", "IDF1", "IDP", "IDR" and "IDSW", the number of identity switches: see
          `mdqe.evaluation.identity`;
        - "per_category": by category id, its "name", the number of "objects" (without crowds) and of "results", the
          same metrics, and with `identity` the number of "tracks" (from `score_threshold`);
        - "per_video", if requested: the same by the id of the video, its "score", the number of "objects", of "tracks"
          (from `score_threshold`) and of objects that are "found": see `mdqe.evaluation.video_score`;
        - "precision_curves", if requested: by the id of each category that has an object, an array (10, 101) of
          precisions at the IoU thresholds 0.5, 0.55, … and the recalls 0, 0.01, …; their mean is AP;
        - "official": the metrics of the official evaluator under its names, such as "AP_small" for "APs".

    Raises:
        OSError: a file cannot be read.
        InputError: a file is not JSON or has invalid records; the message names the file, the record and the field.

    Warns:
        UserWarning: results of unknown categories, which are ignored; no results at all; occlusion labels on only some
            of the annotations; an annotation with the id 0; no annotation with a mask.
    """
    truth = read_annotations(annotations)
    truth.expect(VIDEOS, "; evaluate_coco compares images")
    found = read_results(results, truth)
    warn_of_objects(truth)
    occlusion = _has_occlusion(truth)
    videos = compare_tubes(truth, found, score_threshold=score_threshold, identity=identity, occlusion=occlusion)
    more = {"per_video": per_video, "precision_curves": precision_curves}
    numbers, _ = report(videos, truth, identity=identity, occlusion=occlusion, **more)
    numbers["official"] = official(numbers, occlusion)
    return numbers


def _has_occlusion(truth: Annotations) -> bool:
    """Whether every object has occlusion labels; a warning if only some do."""
    labelled = [one.occlusion is not None for one in truth.objects]
    if any(labelled) and not all(labelled):
        warnings.warn(
            f"{truth.name}: {labelled.count(False)} of {len(labelled)} annotations have no occlusion labels; "
            "there are no metrics by degree of occlusion",
            stacklevel=4,
        )
    return bool(labelled) and all(labelled)


def warn_of_objects(truth: Annotations) -> None:
    """Warn of an annotation that the official evaluators treat in another way, and of a set without any mask."""
    if any(truth.objects) and not any(mask is not None for one in truth.objects for mask in one.masks):
        warnings.warn(f"{truth.name}: no annotation has a mask; all objects count as missed", stacklevel=4)
    for one in truth.objects:
        if one.id == 0:
            warnings.warn(
                f"{truth.name}: {one.label}: matches with the id 0 count here; the official evaluator ignores them",
                stacklevel=4,
            )
