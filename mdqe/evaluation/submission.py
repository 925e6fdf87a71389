"""Results for the evaluation servers of YouTube-VIS and OVIS: checked whole, then packed."""

import json
import zipfile
from pathlib import Path
from typing import Any

from mdqe.annotations.reading_ import Annotations, load_results, read_result
from mdqe.annotations.records import Source
from mdqe.atomic import whole_file
from mdqe.errors import InputError
from mdqe.evaluation.overlap import find_damage
from mdqe.results import rle

_DATE = (1980, 1, 1, 0, 0, 0)  # the same results give the same bytes


def check_results(source: Source, annotations: Annotations, *, allow_missing: bool = False) -> list[str]:
    """Everything that is wrong with results, a line each; none where a server will take them.

    Of a record its first error is told: fields that are missing or of another kind, videos and categories that the set
    does not have, lists and masks of other sizes than the video's, run lengths that do not decode, scores that are no
    finite numbers.

    Args:
        source: a path or the loaded JSON.
        annotations: the set, perhaps without annotations.
        allow_missing: videos without any result are no error.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, or no list.
    """
    name, document = load_results(source)
    errors, seen = [], set()
    for i, value in enumerate(document):
        try:
            number, track = read_result(name, i, value, annotations)
            seen.add(number)
            if track.category not in annotations.categories:
                raise InputError(
                    f'{name}: {track.where}: "category_id" is {track.category}, which is not in {annotations.name}'
                )
            size = annotations.videos[number].size
            try:
                rle.runs([one for one in track.masks if one is not None], size)
            except (ValueError, TypeError):
                find_damage(name, [track], size)
                raise
        except ValueError as error:
            errors.append(str(error))
    missing = [number for number in annotations.videos if number not in seen]
    if missing and not allow_missing:
        listed = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        errors.append(f"{name}: {len(missing)} of {len(annotations.videos)} videos have no result: {listed}")
    return errors


def write_submission(source: Source, path: str | Path) -> None:
    """Write checked results as a zip that holds results.json, in the official form: no track ids, compressed counts."""
    _, document = load_results(source)
    rows = [_official(one) for one in document]
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("results.json", _DATE)
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, json.dumps(rows, separators=(",", ":"), allow_nan=False))


def _official(row: dict[str, Any]) -> dict[str, Any]:
    """A result with the fields that the servers know."""
    masks = row["segmentations"]
    texts = iter(rle.texts([mask["counts"] for mask in masks if mask is not None]))
    return {
        **{key: row[key] for key in ("video_id", "category_id", "score")},
        "segmentations": [
            None if mask is None else {"size": list(mask["size"]), "counts": next(texts).decode("ascii")}
            for mask in masks
        ],
    }
