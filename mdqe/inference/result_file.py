"""The JSON form of `VideoInstances`: YouTube-VIS results, with what they leave out beside them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe.inference import rle

if TYPE_CHECKING:
    from mdqe.inference.result import VideoInstances

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
        raise ValueError(f"the file has entries of its own called {', '.join(taken)}")
    results = document.pop("results")  # last: they are long
    return {**document, **notes, "results": results}


def from_document(document: Any) -> dict[str, Any]:
    """The fields of the `VideoInstances` that such a document holds.

    Raises:
        ValueError, KeyError, TypeError: it is none, of a newer version, or damaged.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'expected an object with "format": "{FORMAT}"')
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']}; this library reads version {VERSION}")
    video, categories, rows = document["video"], document["categories"], document["results"]
    size, frames = (video["height"], video["width"]), video["length"]
    label = {category["id"]: k for k, category in enumerate(categories)}
    runs = np.empty((len(rows), frames), object)
    for i, row in enumerate(rows):
        if len(row["segmentations"]) != frames:
            raise ValueError(f"result {i} has {len(row['segmentations'])} masks; the video has {frames} frames")
        for t, mask in enumerate(row["segmentations"]):
            if mask is None:
                continue
            runs[i, t], its_size = rle.from_coco(mask)
            if its_size != size:
                raise ValueError(f"a mask of result {i} is {list(its_size)}; the video is {list(size)}")
        if label and row["category_id"] not in label:
            raise ValueError(f"result {i} has the category id {row['category_id']}, which is not listed")
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
