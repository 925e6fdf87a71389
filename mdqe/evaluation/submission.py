"""Results in the official form of YouTube-VIS and OVIS: checked completely, then packed."""

import json
import zipfile
from pathlib import Path
from typing import Any

from mdqe.annotations.files import Source
from mdqe.annotations.masks import to_rle
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import Annotations, pack_tracks
from mdqe.annotations.records import Record
from mdqe.annotations.results import load_results, read_result
from mdqe.files import whole_file
from mdqe.results import rle

_DATE = (1980, 1, 1, 0, 0, 0)  # constant, so that the same results give the same bytes


def check_results(source: Source, annotations: Annotations, *, allow_missing: bool = False) -> list[str]:
    """All errors in results, a line each; an empty list if they are in the official form.

    The first error of each record is reported: missing and invalid fields, unknown videos and categories, lists
    and masks of the wrong size, RLEs that cannot be decoded, and scores that are not finite.

    Args:
        source: a path or the loaded JSON.
        annotations: the data set; its annotations may be hidden.
        allow_missing: accept videos without any result.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not JSON, or not a list.
    """
    name, document = load_results(source)
    problems, seen = Problems(), set()
    for i, value in enumerate(document):
        with problems:
            record = Record(name, f"result {i}", value)
            number, track = read_result(record, i, annotations)
            seen.add(number)
            record.known("category_id", annotations.categories, annotations.name)
            list(pack_tracks(name, annotations.layout, [track], annotations.videos[number].size, problems))
    errors = [str(error) for error in problems.errors]
    missing = sorted(annotations.videos.keys() - seen)
    if missing and not allow_missing:
        listed = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        errors.append(f"{name}: {len(missing)} of {len(annotations.videos)} videos have no result: {listed}")
    return errors


def write_submission(source: Source, annotations: Annotations, path: str | Path) -> None:
    """Write checked results as a zip with results.json, in the official form: no track ids, compressed RLEs."""
    name, document = load_results(source)
    rows = [_official(Record(name, f"result {i}", one), i, annotations) for i, one in enumerate(document)]
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("results.json", _DATE)
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, json.dumps(rows, separators=(",", ":"), allow_nan=False))


def _official(record: Record, index: int, annotations: Annotations) -> dict[str, Any]:
    """A result with the fields of the official form."""
    number, track = read_result(record, index, annotations)
    size = annotations.videos[number].size
    texts = iter(rle.compress([to_rle(mask, size) for mask in track.masks if mask is not None], size))
    masks = [None if mask is None else rle.to_coco(next(texts), size) for mask in track.masks]
    return {"video_id": number, "category_id": track.category, "score": track.score, "segmentations": masks}
