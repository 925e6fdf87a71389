"""Small sets of videos and images on disk, and changes to their annotations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdqe.data.synthetic import Drawing, clip_targets, draw_video
from mdqe.data.synthetic_files import write_set
from mdqe.targets import ClipTargets

SIZE = (48, 72)
FRAMES = 7
SEED = 31


def write_videos(folder: Path, videos: int = 3) -> dict[str, Any]:
    """Videos with every pixel as drawn; returns the annotations, which are in annotations.json too."""
    for _ in write_set(folder, videos=videos, frames=FRAMES, seed=SEED, size=SIZE, images="png"):
        pass
    return json.loads((folder / "annotations.json").read_text())


def drawing(video: int) -> Drawing:
    return draw_video(SEED, video, frames=FRAMES, size=SIZE)


def save(folder: Path, document: dict[str, Any], name: str = "changed.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def minimal(document: dict[str, Any]) -> dict[str, Any]:
    """The same videos and objects with the required fields alone, and absent masks in all forms."""
    absent = [None, [], {}]
    videos = [
        {key: one[key] for key in ("id", "height", "width", "file_names" if one.get("file_names") else "length")}
        for one in document["videos"]
    ]
    annotations = [
        {key: one[key] for key in ("video_id", "category_id")}
        | ({"iscrowd": 1} if one.get("iscrowd") else {})
        | ({"occlusion": one["occlusion"]} if "occlusion" in one else {})
        | {"segmentations": [mask or absent[t % 3] for t, mask in enumerate(one["segmentations"])]}
        for one in document["annotations"]
    ]
    return {"videos": videos, "categories": document["categories"], "annotations": annotations}


def coco_document(document: dict[str, Any]) -> dict[str, Any]:
    """The frames of a set of videos as COCO's images."""
    images, annotations = [], []
    for video in document["videos"]:
        size = {"height": video["height"], "width": video["width"]}
        for t, name in enumerate(video["file_names"]):
            images.append({"id": len(images) + 1, "file_name": name, **size})
            for one in document["annotations"]:
                if one["video_id"] == video["id"] and one["segmentations"][t] is not None:
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": len(images),
                            "category_id": one["category_id"],
                            "iscrowd": 0,
                            "segmentation": one["segmentations"][t],
                            "bbox": one["bboxes"][t],
                            "area": one["areas"][t],
                        }
                    )
    return {"images": images, "annotations": annotations, "categories": document["categories"]}


def part(whole: Drawing, frames: list[int]) -> tuple[torch.Tensor, ClipTargets]:
    """Some frames of a drawing, and its targets there."""
    cut = Drawing(whole.frames[frames], whole.labels, whole.masks[:, frames], whole.hidden[:, frames])
    return torch.from_numpy(np.ascontiguousarray(cut.frames.transpose(0, 3, 1, 2))), clip_targets(cut)


def assert_same_objects(found: ClipTargets, expected: ClipTargets) -> None:
    """Equal in all but the numbers that are the objects' ids."""
    for name in ("labels", "masks", "boxes"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.ids >= 0, expected.ids >= 0)
