"""The JSON of BURST, of annotations and of results: sequences with a mask for each track and annotated frame.

A file has "sequences"; a sequence has "dataset", "seq_name", "annotated_image_paths", "track_category_ids" and
"segmentations": for each annotated frame an object that has, by the id of the track, {"rle": compressed counts,
"score": …}. Annotations have the "width" and "height" of the frames, and "neg_category_ids" and
"not_exhaustive_category_ids": categories that do not occur, and those of which not every object is annotated.
The format: https://github.com/Ali2500/BURST-benchmark, ANNOTATION_FORMAT.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mdqe.annotations.files import Source, load_json
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import read_names
from mdqe.annotations.records import Record, is_finite, kind, short
from mdqe.errors import InputError

ALL_CLASSES = "all_classes.json"


class BurstMask(NamedTuple):
    """The mask of a track in a frame."""

    track: str
    counts: str
    """Compressed RLE, unchecked."""
    score: float
    category: int
    """That of the track, unless the mask of a result has its own."""


class BurstFrame(NamedTuple):
    """An annotated frame."""

    file: str
    masks: list[BurstMask]


@dataclass
class BurstSequence:
    """A video."""

    label: str
    """What errors call it."""
    id: int | None
    key: tuple[str, str]
    """The data set that it comes from, and its name there."""
    size: tuple[int, int] | None
    """H and W; results need not have them."""
    frames: list[BurstFrame]
    files: list[str]
    """All frames, annotated or not."""
    tracks: dict[str, int]
    """The category of each track."""
    negative: set[int] = field(default_factory=set)
    """Categories that do not occur in the video."""
    incomplete: set[int] = field(default_factory=set)
    """Categories of which not every object is annotated."""


class Burst(NamedTuple):
    """A file."""

    name: str
    """What errors call it."""
    split: str | None
    categories: dict[int, str]
    sequences: list[BurstSequence]


def recognises(document: Any) -> bool:
    """Whether a document is in the form of BURST."""
    return isinstance(document, Mapping) and "sequences" in document


def read_burst(source: Source, name: str = "annotations", *, results: bool = False) -> Burst:
    """Read a file.

    Args:
        source: a path or the loaded JSON.
        name: what errors call a document in memory.
        results: the file has results, which need less.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not such a file; the message lists all problems with the file, the sequence and the field.
    """
    name, document = load_json(source, name)
    if not recognises(document):
        raise InputError(f'{name}: {kind(document)}; expected the JSON of BURST, an object with "sequences"')
    file, problems = Record(name, "the file", document), Problems()
    categories = read_names(file, "categories", "category", problems) if document.get("categories") else {}
    split = document.get("split")
    if not (isinstance(split, str) or (split is None and results)):
        file.fail("split", f"{short(split)}; expected a name such as val")
    sequences = []
    for i, one in enumerate(file.items("sequences")):
        with problems:
            sequences.append(_read_sequence(Record(name, f"sequence {i}", one), results))
    problems.report(name)
    return Burst(name, split, categories, sequences)


def frame_number(record: Record, file: str) -> int:
    """The number at the end of the name of a frame: 31 of "frame0031.jpg" or "video_31.png"."""
    text = file.replace(".jpg", "").replace(".png", "").replace("frame", "").rsplit("_", 1)[-1]
    if not re.fullmatch("[0-9]{1,18}", text):
        record.fail("annotated_image_paths", f"{short(file)}; expected names that end in a number")
    return int(text)


def _read_sequence(record: Record, results: bool) -> BurstSequence:
    key = (_text(record, "dataset"), _text(record, "seq_name"))
    record.label += f" ({'/'.join(key)})"
    size = record.size() if not results or "height" in record.value else None
    paths = _paths(record, "annotated_image_paths")
    tracks = _categories(record)
    frames = record.items("segmentations")
    if len(frames) != len(paths):
        record.fail("segmentations", f"a list of {len(frames)}; there are {len(paths)} annotated_image_paths")
    read = [BurstFrame(path, _read_masks(record, path, one, tracks)) for path, one in zip(paths, frames, strict=True)]
    number = record.integer("id") if record.value.get("id") is not None or not results else None
    files = _paths(record, "all_image_paths") if record.value.get("all_image_paths") else paths
    sequence = BurstSequence(record.label, number, key, size, read, files, tracks)
    if not results:
        sequence.negative = _ids(record, "neg_category_ids")
        sequence.incomplete = _ids(record, "not_exhaustive_category_ids")
        for path in paths:
            frame_number(record, path)
    return sequence


def _read_masks(record: Record, path: str, value: Any, tracks: Mapping[str, int]) -> list[BurstMask]:
    if not isinstance(value, Mapping):
        record.fail("segmentations", f"{kind(value)} for {path}; expected an object of masks by the ids of tracks")
    masks = []
    for track, one in value.items():
        place = f"for track {short(track)} in {path}"
        if not re.fullmatch("-?[0-9]{1,18}", str(track)):
            record.fail("segmentations", f"{short(track)} in {path}; expected ids of tracks, which are whole numbers")
        counts = one.get("rle") if isinstance(one, Mapping) else None
        if not isinstance(counts, str):
            record.fail("segmentations", f"{short(one)} {place}; expected an object with rle, a string")
        category, score = one.get("category_id", tracks.get(track)), one.get("score", 1.0)
        if not isinstance(category, int) or isinstance(category, bool) or not 0 <= category < 2**63:
            record.fail("track_category_ids", f"without a category {place}")
        if not is_finite(score):
            record.fail("segmentations", f"the score {short(score)} {place}; expected a finite number")
        masks.append(BurstMask(str(track), counts, float(score), category))
    if len({int(mask.track) for mask in masks}) < len(masks):
        record.fail("segmentations", f"an object that names a track twice in {path}")
    return masks


def _categories(record: Record) -> dict[str, int]:
    value = record.get("track_category_ids")
    if not isinstance(value, Mapping):
        record.fail("track_category_ids", f"{kind(value)}; expected an object of categories by the ids of tracks")
    ids = Record(record.file, f"{record.label}: track_category_ids", value)
    return {str(track): ids.integer(track) for track in value}


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        record.fail(key, f"{short(value)}; expected a string")
    record.check_path(key, value)
    return value


def _paths(record: Record, key: str) -> list[str]:
    paths = list(record.items(key))
    for one in paths:
        if not isinstance(one, str):
            record.fail(key, f"{short(one)}; expected paths")
        record.check_path(key, one)
    return paths


def _ids(record: Record, key: str) -> set[int]:
    ids = record.items(key)
    for one in ids:
        if not isinstance(one, int):
            record.fail(key, f"{short(one)}; expected ids of categories")
    return set(ids)
