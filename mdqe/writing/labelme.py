"""LabelMe: a JSON file per frame. Shapes with the same label and group_id are one object."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import Track
from mdqe.importing.labelme import IGNORED_LABEL
from mdqe.results import rle
from mdqe.writing.clips import Clip, track_numbers
from mdqe.writing.outlines import outline
from mdqe.writing.pngs import png

LOST = "frames in which polygons differ from the masks: holes, small details"
_MOST = 2**31 - 1


def labelme_files(clip: Clip, notes: Problems, tolerance: float | None = None) -> Iterator[tuple[str, bytes]]:
    """The JSON files, also of frames without objects. Crowd regions have the label "__ignore__" and no group_id.

    Args:
        clip: the video.
        notes: receives what polygons cannot hold.
        tolerance: of polygons, in pixels; None: masks.
    """
    objects = clip.objects()
    numbers = track_numbers(clip, objects, 0, _MOST, notes)
    groups: list[tuple[Track, str, int | None]] = [
        (track, clip.category(track), number) for track, number in zip(objects, numbers, strict=True)
    ]
    groups += [(track, IGNORED_LABEL, None) for track in clip.crowds()]
    for t, stem in enumerate(clip.stems):
        shapes, wrong = [], 0
        for track, label, number in groups:
            counts = track.masks[t]
            if counts is not None:
                drawn, lost = _shapes(str(counts), clip.size, tolerance)
                head: dict[str, Any] = {"label": label, "group_id": number, "flags": {}, "description": ""}
                shapes += [head | one for one in drawn]
                wrong += lost
        if wrong:
            notes.add(LOST, clip.files[t], wrong)
        image = clip.files[t].rpartition("/")[2]
        document: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": shapes}
        document |= {"imagePath": image, "imageData": None}
        document |= {"imageHeight": clip.size[0], "imageWidth": clip.size[1]}
        yield f"{clip.name}/{stem}.json", json.dumps(document, indent=1).encode("ascii")


def _shapes(counts: str, size: tuple[int, int], tolerance: float | None) -> tuple[list[dict[str, Any]], int]:
    """The shapes of a mask, and the number of pixels in which they differ from it."""
    if tolerance is not None:
        polygons, wrong = outline(counts, size, tolerance)
        shapes = [{"shape_type": "polygon", "points": polygon.tolist(), "mask": None} for polygon in polygons]
        return shapes, wrong
    (mask,) = rle.decode([counts], size)
    left, top, right, bottom = rle.boxes([counts], size)[0].astype(int).tolist()
    data = base64.b64encode(png(mask[top:bottom, left:right].astype(np.uint8))).decode("ascii")
    points = [[left, top], [right - 1, bottom - 1]]
    return [{"shape_type": "mask", "points": points, "mask": data}], 0
