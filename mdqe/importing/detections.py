"""Detections of single frames, without identities, for `mdqe link`.

Formats of annotations are read as by `mdqe import`, except that no object needs an identity, and that identities in the
source are not used. Result files are lists: of detectron2 (coco_instances_results.json) and of Ultralytics' validation
(predictions.json), a record for each detection; and of Ultralytics' `results.to_json()`, a list for each frame.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mdqe.annotations.files import load_json
from mdqe.annotations.problems import Problems
from mdqe.annotations.records import Record, kind, short
from mdqe.errors import InputError
from mdqe.importing import FORMATS
from mdqe.importing.coco import read_score
from mdqe.importing.formats import recognise
from mdqe.importing.source import Frame, Shape, Source, Video, image_files, image_size, polygon_rle
from mdqe.results import rle
from mdqe.video.images import natural_key

WITH_IDENTITIES = ("davis", "burst", "mots", "mots-png", "cvat")
"""Formats in which every object has an identity in the video."""
DETECTION_FORMATS = {
    "coco": "a JSON file in the form of COCO; tracks are not needed",
    "id-png": "a folder per video of PNG images whose pixel values are objects of the image",
    "labelme": "LabelMe: a JSON file per frame; group ids are not needed",
    "results": "a JSON list of results: detectron2's, or those of Ultralytics",
    **{name: FORMATS[name] for name in WITH_IDENTITIES},
}
MOST_EMPTY = 10_000  # frames without a record that are added between those that have one


def open_detections(
    source: Path, format: str | None, images: Path | None, notes: Problems, length: int | None = None
) -> Source:
    """Open detections of the frames of videos.

    Args:
        source: a file or folder.
        format: one of DETECTION_FORMATS; None: recognise it.
        images: the folder of the frames; None: the standard folder of the format. Result files need it only for
            polygons.
        notes: receives what is left out, and how frames without detections were found.
        length: number of frames of the video, which result files do not have.

    Returns:
        A source whose shapes are the detections of each frame, with scores; their identities have no meaning.

    Raises:
        OSError, InputError: something is missing or invalid. The message names the file, the record and the field.
    """
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    name = format or ("results" if _is_list(source) else recognise(source))
    if name not in DETECTION_FORMATS:
        raise InputError(f"{source} is in the form {name}; expected one of {', '.join(DETECTION_FORMATS)}")
    if name == "results":
        return _open_results(source, images, notes, length)._replace(path=source)
    options = {"identities": False} if name in ("coco", "labelme", "id-png") else {}
    module = import_module("mdqe.importing." + name.replace("-", "_"))
    opened: Source = module.open_source(source, images, notes, **options)
    if not opened.videos:
        raise InputError(f"{source} has no video in the form {name}: {DETECTION_FORMATS[name]}")
    if name in WITH_IDENTITIES:
        notes.add(f"objects with identities in the form {name}, which are linked anew", str(source))
    return opened._replace(path=source)


def _is_list(source: Path) -> bool:
    if not source.is_file() or source.suffix != ".json":
        return False
    with source.open("rb") as file:
        text = file.read(4096).decode("utf-8-sig", "replace")  # UTF-8, with a byte order mark or without
        while text and not text.strip():
            text = file.read(4096).decode("utf-8", "replace")
    return text.lstrip()[:1] == "["


def _open_results(source: Path, images: Path | None, notes: Problems, length: int | None) -> Source:
    name, document = load_json(source, str(source))
    if not isinstance(document, list) or not document:
        raise InputError(f"{name} is {kind(document)} without results, expected a list of them")
    files = [] if images is None else list(image_files(images, images).values())
    if all(isinstance(one, str) for one in document):  # of to_json(), each as it comes
        document = [_parsed(name, t, one) for t, one in enumerate(document)]
    if isinstance(document[0], list):
        frames = dict(enumerate(document))
        opened = _ultralytics_frames(name, frames, images, files, notes)
        number = len(frames)
    else:
        by_frame = _by_frame(name, document, files, notes, length)
        opened, number = _detectron2_frames(name, by_frame, files), len(by_frame)
    return Source(images or source.parent, [Video(source.stem, number, opened)])


def _parsed(name: str, frame: int, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{name}: frame {frame} is a string that is not JSON: {error}") from None


def _by_frame(
    name: str, document: Sequence[Any], files: Sequence[str], notes: Problems, length: int | None
) -> list[tuple[str, list[Record]]]:
    """The records of each frame, with its name. Missing numbers of frames are frames without detections."""
    found: dict[Any, list[Record]] = defaultdict(list)
    for i, one in enumerate(document):
        record = Record(name, f"result {i}", one)
        key = record.get("image_id")
        if not isinstance(key, int | str) or isinstance(key, bool):
            record.fail("image_id", f"{short(key)}; expected a number or a name")
        found[key].append(record)
    stems: dict[int | str, str] = {Path(file).stem: file for file in files}
    stems |= {int(stem): file for stem, file in list(stems.items()) if str(stem).isdecimal()}
    if files and all(key in stems for key in found):
        named = {stems[key]: records for key, records in found.items()}
        numbers = [key for key in stems if isinstance(key, int)]
        if all(isinstance(key, int) for key in found) and 0 in numbers and min(found) > 0:
            key = min(found)
            notes.add(
                "results without image_id 0, taken as the numbers in the names of images", f"{key} is {stems[key]}"
            )
        return [(file, named.get(file, [])) for file in files]
    if all(isinstance(key, int) for key in found):
        first, last = min(found), max(found)
        if length is not None and first >= 0 and last <= length:  # frames of the video, counted from 0 or from 1
            if first > 0:
                notes.add("results without image_id 0, taken as frames counted from 1", f"{name}: from {first} on")
            first = min(first, 1)
            last = max(last, first + length - 1)
        if last - first + 1 - len(found) <= MOST_EMPTY:
            return [(str(key), found.get(key, [])) for key in range(first, last + 1)]
    return [(str(key), found[key]) for key in sorted(found, key=lambda key: natural_key(Path(str(key))))]


def _detectron2_frames(name: str, frames: list[tuple[str, list[Record]]], files: Sequence[str]) -> Iterator[Frame]:
    """Frames of records with image_id, category_id, score and segmentation, run lengths with their size."""
    size: tuple[int, int] | None = None
    first = ""
    for t, (frame, records) in enumerate(frames):
        shapes = []
        for record in records:
            try:
                counts, own = rle.from_coco(record.get("segmentation"))
            except ValueError as error:
                record.fail("segmentation", f"invalid: {error}")
            if size is None:
                size, first = own, f"{record.label} (frame {frame})"
            if own != size:
                expected = f"expected {size[1]}x{size[0]}, as in {first}"
                record.fail("segmentation", f"of {own[1]}x{own[0]} in frame {frame}; {expected}")
            shapes.append(Shape(record.label, str(record.integer("category_id")), counts, score=read_score(record)))
        yield Frame(files[t] if len(files) == len(frames) else frame, size or (0, 0), shapes)


def _ultralytics_frames(
    name: str, frames: Mapping[int, Any], images: Path | None, files: Sequence[str], notes: Problems
) -> Iterator[Frame]:
    """Frames of lists of detections with name, confidence and segments, polygons in pixels."""
    if images is None:
        raise InputError(
            f"{name} has polygons without the size of the frames; name the folder of the frames with --images"
        )
    if len(files) != len(frames):
        raise InputError(f"{images} has {len(files)} images; {name} has {len(frames)} frames")
    for t, found in frames.items():
        size = image_size(images / files[t])
        if not isinstance(found, list):
            raise InputError(f"{name}: frame {t} is {kind(found)}; expected a list of detections")
        shapes = []
        for i, one in enumerate(found):
            record = Record(name, f"frame {t}, detection {i}", one)
            segments = record.get("segments")
            axes = [segments.get(axis) for axis in "xy"] if isinstance(segments, Mapping) else [None]
            if not all(isinstance(axis, list) and len(axis) == len(axes[0] or []) for axis in axes):
                record.fail("segments", f"{short(segments)}; expected lists x and y of the same length")
            if len(axes[0] or []) < 3:  # Ultralytics writes such outlines of masks of no or few pixels
                notes.add("detections whose polygon has fewer than three corners, left out", record.label)
                continue
            points = [value for pair in zip(*axes, strict=True) for value in pair]
            try:
                counts = polygon_rle([points], size)
            except InputError as error:
                record.fail("segments", f"invalid: {error}")
            if max(points) <= 1 and min(size) > 2:
                record.fail("segments", "between 0 and 1; expected pixels, not a normalized polygon")
            score = Record(name, record.label, {"score": record.value.get("confidence")})
            shapes.append(Shape(record.label, str(record.value.get("name", "object")), counts, score=read_score(score)))
        yield Frame(files[t], size, shapes)
