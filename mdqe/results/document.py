"""The JSON form of `VideoInstances`: YouTube-VIS results, with what they leave out beside them."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe.errors import InputError
from mdqe.results import rle

if TYPE_CHECKING:
    from mdqe.results.instances import VideoInstances

FORMAT, VERSION = "mdqe-instances", 1


def to_document(result: "VideoInstances", notes: dict[str, Any]) -> dict[str, Any]:
    """What `VideoInstances.save` writes. `notes` are further entries; they may not replace the format's own."""
    height, width = result.size
    number = max(len(result.categories), len(result.category_ids))
    document = {
        "format": FORMAT,
        "version": VERSION,
        "video": {
            "id": 1,
            "height": height,
            "width": width,
            "length": result.num_frames,
            "first_frame": result.first_frame,
            "fps": result.fps,
        },
        "categories": [
            {"id": result.category_ids[k] if result.category_ids else k + 1}
            | ({"name": result.categories[k]} if result.categories else {})
            for k in range(number)
        ],
        "results": [{"category": result.category(i)} | row for i, row in enumerate(result.to_ytvis(1))],
    }
    if taken := sorted(document.keys() & notes.keys()):
        raise InputError(f"the file has entries of its own called {', '.join(taken)}")
    results = document.pop("results")  # last: they are long
    return {**document, **notes, "results": results}


def from_document(document: Any) -> dict[str, Any]:
    """The fields of the `VideoInstances` that such a document holds.

    Raises:
        ValueError, KeyError, TypeError: it is none, of a newer version, or damaged.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f'expected an object with "format": "{FORMAT}"')
    if document["version"] != VERSION:
        raise InputError(f"version {document['version']}; this library reads version {VERSION}")
    video, categories, rows = document["video"], document["categories"], document["results"]
    for key in ("height", "width", "length", "first_frame"):
        if type(video[key]) is not int or not 0 <= video[key] < 2**31:
            raise InputError(f"{key} of the video is {str(video[key])[:40]!r}; expected a whole number from 0")
    if video["fps"] is not None and not (type(video["fps"]) in (int, float) and 0 < video["fps"] < math.inf):
        raise InputError(f"fps of the video is {str(video['fps'])[:40]!r}; expected a number above 0 or null")
    size, frames = (video["height"], video["width"]), video["length"]
    label = {category["id"]: k for k, category in enumerate(categories)}
    for i, row in enumerate(rows):
        if len(row["segmentations"]) != frames:
            raise InputError(f"result {i} has {len(row['segmentations'])} masks; the video has {frames} frames")
        if type(row["score"]) not in (int, float) or not math.isfinite(row["score"]):
            raise InputError(f"the score of result {i} is {str(row['score'])[:40]!r}; expected a finite number")
        if type(row["track_id"]) is not int or type(row["category_id"]) is not int:
            raise InputError(f"result {i} has a track_id or category_id that is no whole number")
    runs = np.empty((len(rows), frames), object)
    for i, row in enumerate(rows):
        for t, mask in enumerate(row["segmentations"]):
            if mask is None:
                continue
            runs[i, t], its_size = rle.from_coco(mask)
            if its_size != size:
                raise InputError(f"a mask of result {i} is {list(its_size)}; the video is {list(size)}")
        if label and row["category_id"] not in label:
            raise InputError(f"result {i} has the category id {row['category_id']}, which is not listed")
    return {
        "scores": np.array([row["score"] for row in rows], np.float64),
        "labels": np.array([label.get(row["category_id"], row["category_id"] - 1) for row in rows], np.int64),
        "track_ids": np.array([row["track_id"] for row in rows], np.int64),
        "runs": runs,
        "size": size,
        "categories": tuple(category["name"] for category in categories if "name" in category),
        "category_ids": tuple(category["id"] for category in categories),
        "fps": video["fps"],
        "first_frame": video["first_frame"],
    }
