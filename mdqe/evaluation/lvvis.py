"""The metrics of LV-VIS: average precision over all categories, over base and over novel ones.

The procedure is that of YouTube-VIS, with two differences of the official evaluator. A crowd is an object like others,
but any number of results can match it, so recall can exceed 1. The area of an object is computed from whole pixels: the
file's "areas" without their fractions.

Wang et al., Towards Open-Vocabulary Video Instance Segmentation, ICCV 2023.
"""

from collections.abc import Mapping
from typing import Any

from mdqe.annotations.files import Loaded, Source
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import VIDEOS, load_annotations, read_annotations
from mdqe.annotations.records import Record
from mdqe.annotations.results import read_results
from mdqe.errors import InputError
from mdqe.evaluation.tubes import averages, compare_tubes, official, report
from mdqe.evaluation.ytvis import warn_of_objects

PARTITIONS = {"base": (0, 1), "novel": (2, 3)}
"""The values of a category's "partition"."""


def evaluate_lvvis(
    annotations: Source,
    results: Source,
    *,
    identity: bool = True,
    score_threshold: float = 0.3,
    per_video: bool = False,
    precision_curves: bool = False,
) -> dict[str, Any]:
    """Compare results with the annotations of LV-VIS.

    Args:
        annotations: a path or the loaded JSON, in the form of YouTube-VIS; categories have a "partition": 0 or 1 for
            base categories, 2 or 3 for novel ones, another number for neither.
        results, identity, score_threshold, per_video, precision_curves: as in
            `mdqe.evaluation.ytvis.evaluate_ytvis`.

    Returns:
        What `evaluate_ytvis` returns, without the metrics by degree of occlusion. "official" has "all", "base" and
        "novel", each with the twelve metrics of the official evaluator; "per_category": "AP", "AP50", "AR1", "AR10" and
        "AR100" by category id; "base_categories" and "novel_categories": the ids;
        "max_recall_over_categories": of any IoU threshold.

    Raises:
        OSError: a file cannot be read.
        InputError: a file is not JSON or has invalid records, or a category has no "partition".

    Warns:
        UserWarning: as `evaluate_ytvis`.
    """
    loaded = load_annotations(annotations)
    truth = read_annotations(loaded, whole_areas=True)
    truth.expect(VIDEOS, "; evaluate_coco compares images")
    groups = partitions(loaded)
    found = read_results(results, truth)
    warn_of_objects(truth)
    videos = compare_tubes(truth, found, score_threshold=score_threshold, identity=identity, crowds_count=True)
    numbers, lines = report(videos, truth, identity=identity, per_video=per_video, precision_curves=precision_curves)
    numbers["official"] = {"all": official(numbers)}
    for name, members in groups.items():
        numbers["official"][name] = official(averages(lines.get(one, []) for one in members))
    keys = ("AP", "AP50", "AR1", "AR10", "AR100")
    numbers["official"]["per_category"] = {
        number: {key: one[key] for key in keys} for number, one in numbers["per_category"].items()
    }
    recalls = [float(one[0].recall.max()) for one in lines.values() if one[0] is not None]
    numbers["official"]["max_recall_over_categories"] = max(recalls, default=-1.0)
    numbers["official"] |= {f"{name}_categories": members for name, members in groups.items()}
    return numbers


def partitions(loaded: Loaded) -> dict[str, list[int]]:
    """The ids of the base and of the novel categories.

    Raises:
        InputError: a category has no "partition".
    """
    groups: dict[str, list[int]] = {name: [] for name in PARTITIONS}
    problems = Problems()
    if not recognises(loaded.document):
        raise InputError(f'{loaded.name} is not LV-VIS: no category has a "partition"')
    for i, one in enumerate(loaded.document["categories"]):
        with problems:
            record = Record(loaded.name, f"category {i}", one)
            partition = record.integer("partition")
            for name, values in PARTITIONS.items():
                if partition in values:
                    groups[name].append(record.integer("id"))
    problems.report(loaded.name)
    return {name: sorted(members) for name, members in groups.items()}


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether annotations are those of LV-VIS: a category has a "partition"."""
    categories = document.get("categories")
    return isinstance(categories, list) and any(isinstance(one, Mapping) and "partition" in one for one in categories)
