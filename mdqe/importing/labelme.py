"""LabelMe: a JSON file per frame, with shapes; shapes with the same label and group_id are one object in all frames.

The source is a folder per video, or the folder of one video. The format: https://github.com/wkentaro/labelme.
"""

import base64
import binascii
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mdqe.annotations.files import load_json
from mdqe.annotations.problems import Problems
from mdqe.annotations.records import Record, is_finite, kind, short
from mdqe.errors import InputError
from mdqe.importing.source import (
    Frame,
    Shape,
    Source,
    Video,
    check_image,
    image_files,
    image_folder,
    image_root,
    image_size,
    note_unannotated,
    polygon_rle,
    video_folders,
    with_empty_frames,
)
from mdqe.results import rle
from mdqe.video.frames import VideoError
from mdqe.video.images import opened_image

IGNORED_LABEL = "__ignore__"
"""The label of regions to ignore."""


def recognises(source: Path) -> bool:
    """Whether the first JSON file of the first folder has shapes."""
    first = next((paths[0] for paths in video_folders(source, ".json").values()), None)
    if first is None:
        return False
    _, document = load_json(first, "")
    return isinstance(document, Mapping) and isinstance(document.get("shapes"), list)


def open_source(source: Path, images: Path | None, notes: Problems, *, identities: bool = True) -> Source:
    """A source of such files.

    Args:
        source: a folder of JSON files, or of a folder of them per video.
        images: the folder of the frames; by default, they are beside the JSON files.
        notes: receives regions to ignore, shapes without a group_id, shapes other than polygons and masks, and images
            without a JSON file.
        identities: whether shapes need a group_id. Without, those without one are objects of their own, and images
            without a JSON file are frames without detections.
    """
    if source.is_file():
        raise InputError(f"{source} has the shapes of one frame; name the folder of all: {source.absolute().parent}")
    root = image_root(images, source)
    videos = []
    for folder, paths in video_folders(source, ".json").items():
        frames = folder if images is None else image_folder(root, folder.resolve().name)
        files = image_files(root, frames)
        by_name = {path.stem: path for path in paths}
        names = list(by_name) if identities else with_empty_frames(notes, files, by_name)
        if len(names) == len(paths):
            note_unannotated(notes, files, by_name)
        videos.append(Video(folder.resolve().name, len(names), _frames(names, by_name, files, root, notes, identities)))
    return Source(root, videos)


def _frames(
    names: Sequence[str],
    paths: Mapping[str, Path],
    files: Mapping[str, str],
    root: Path,
    notes: Problems,
    identities: bool,
) -> Iterator[Frame]:
    for stem in names:
        if stem not in paths:
            yield Frame(files[stem], image_size(root / files[stem]), [])
            continue
        path = paths[stem]
        name, document = load_json(path, "")
        file = Record(name, "the file", document)
        image = _image(file, path, files)
        sides = [document.get(key) for key in ("imageHeight", "imageWidth")]
        if None in sides:
            size = image_size(root / image)
        else:
            size = file.size("imageHeight", "imageWidth")
            check_image(root / image, size, name)
        shapes = []
        for i, one in enumerate(file.items("shapes")):
            record = Record(name, f"shape {i}", one)
            if (shape := _shape(record, size, notes, identities)) is not None:
                shapes.append(shape)
        yield Frame(image, size, shapes)


def _image(file: Record, path: Path, files: Mapping[str, str]) -> str:
    """The image of a JSON file: the one with the same name, otherwise the one that it names."""
    own = PurePosixPath(str(file.value.get("imagePath") or "").replace("\\", "/"))
    found = files.get(path.stem, files.get(own.stem))
    if found is None:
        names = " or ".join(dict.fromkeys((path.stem, own.stem or "(imagePath)")))
        raise FileNotFoundError(f"{path} has no frame: there is no image {names}; --images names the folder of all")
    return found


def _shape(record: Record, size: tuple[int, int], notes: Problems, identities: bool) -> Shape | None:
    """A shape; None if it is left out."""
    label, group = record.get("label"), record.value.get("group_id")
    if not isinstance(label, str):
        record.fail("label", f"{kind(label)}; expected a string")
    name = f"{record.file}: {record.label}"
    if label == IGNORED_LABEL:
        notes.add("regions to ignore, left out", f"{name} ({label})")
        return None
    if group is None and identities:
        notes.add("shapes without a group_id, left out", f"{name} ({label})")
        return None
    identity = record.label if group is None else record.integer("group_id")
    form = record.value.get("shape_type") or "polygon"
    if form not in ("polygon", "mask"):
        notes.add("shapes other than polygons and masks, left out", f"{name} ({form})")
        return None
    points = _points(record, 3 if form == "polygon" else 2)
    if form == "mask":
        return Shape(identity, label, _mask(record, points, size))
    try:
        return Shape(identity, label, polygon_rle([[one for point in points for one in point]], size))
    except InputError as error:
        record.fail("points", f"invalid: {error}")


def _points(record: Record, minimum: int) -> list[list[float]]:
    points = record.items("points")
    if len(points) < minimum:
        record.fail("points", f"a list of {len(points)}; expected {minimum} or more of [x, y]")
    for point in points:
        pair = isinstance(point, list) and len(point) == 2
        if not pair or not all(map(is_finite, point)):
            record.fail("points", f"a list with {short(point)}; expected [x, y]")
    return list(points)


def _mask(record: Record, points: list[list[float]], size: tuple[int, int]) -> str:
    """The RLE of a mask, a PNG image in base64 whose upper left corner is the first point."""
    left, top = (round(one) for one in points[0])
    data: Any = record.get("mask")
    try:
        content = base64.b64decode(data, validate=True)
    except (TypeError, ValueError, binascii.Error):
        record.fail("mask", f"{short(data)}; expected a PNG image in base64")
    try:
        with opened_image(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("L")) > 0
    except VideoError:
        record.fail("mask", "not a PNG image in base64")
    height, width = pixels.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        record.fail("mask", f"{width}x{height} at {left}, {top}, which is not within the image of {size[1]}x{size[0]}")
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = pixels
    return rle.encode(mask[None])[0]
