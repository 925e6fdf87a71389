"""The folder in which the code of the pages runs: small files with the names that the pages use."""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from official_layout import layout, pickled

from mdqe import MDQE, MDQEConfig
from mdqe.cli import main
from mdqe.data.synthetic import draw_video
from mdqe.video.write import VideoWriter

SMALL: dict[str, Any] = {
    "backbone": "resnet10t", "hidden_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1, "grid_size": 4,
}  # fmt: skip


def make_world(folder: Path) -> None:
    """Fill an empty folder."""
    for name in ("video.mp4", "crowd.mp4", "clip.mp4"):
        with VideoWriter(folder / name, 10) as writer:
            for image in draw_video(0, frames=9, size=(64, 96)).frames:
                writer.write(image)
    shutil.copytree(str(files("mdqe") / "models" / "tiny"), folder / "models" / "r50_ovis")
    (folder / "list.txt").write_text("video.mp4\nclip.mp4\n")
    found = MDQE.from_pretrained(folder / "models" / "r50_ovis").segment(str(folder / "clip.mp4"))
    (folder / "results" / "clip").mkdir(parents=True)
    found.save(folder / "results" / "clip" / "instances.json")
    for name, classes, frames in (("MDQE_R50_OVIS", 25, 4), ("official", 25, 4), ("MDQE_R50_COCO", 80, 1)):
        torch.save({"model": pickled(layout("resnet50", 256, classes, frames))}, folder / f"{name}.pth")
    torch.manual_seed(0)
    for name in ("COCO_MODEL", "models/r50_coco"):
        MDQE(MDQEConfig.preset("r50_coco", **SMALL)).save_pretrained(folder / name)
    _stop_a_run(folder / "stopped")
    _make_sets(folder)


def _stop_a_run(folder: Path) -> None:
    """The checkpoint of a training run that has not ended."""
    folder.mkdir()
    model = MDQE(MDQEConfig.preset("r50_coco", **SMALL))
    values = {"config": model.config.to_dict(), "model": dict(model.state_dict()), "optimizer": {}, "average": None}
    torch.save({"step": 500, **values}, folder / "checkpoint.pt")


def _make_sets(folder: Path) -> None:
    for name in ("shapes", "unseen"):
        options = ["--videos", "3", "--frames", "4", "--size", "96x64", "--difficulty", "easy"]
        assert main(["make-data", "-o", str(folder / name), *options]) == 0
    shapes = json.loads((folder / "shapes" / "annotations.json").read_text())
    images = folder / "shapes" / "JPEGImages"
    shutil.copytree(images, folder / "JPEGImages")
    _write(folder / "videos.json", shapes)
    wanted = ("video_id", "category_id", "segmentations")
    results = [{"score": 0.9, **{key: one[key] for key in wanted}} for one in shapes["annotations"]]
    _write(folder / "results.json", results)

    for name in ("train", "JPEGImages"):
        shutil.copytree(images, folder / "ovis" / name)
    ovis = shapes | {"categories": _categories("r50_ovis_360")}
    for name in ("annotations", "annotations_train", "annotations_valid"):
        _write(folder / "ovis" / f"{name}.json", ovis if name != "annotations_train" else _more(ovis))

    (folder / "coco").mkdir()
    shutil.copytree(images, folder / "coco" / "train2017")
    coco = _first_frames(shapes)
    _write(folder / "coco" / "instances_train2017.json", coco)
    shutil.copytree(images, folder / "val2017")
    _write(folder / "instances_val2017.json", coco)


def _more(document: dict[str, Any]) -> dict[str, Any]:
    """Five copies of the videos, so that a tenth of them is one video."""
    videos, annotations = document["videos"], document["annotations"]
    again = [
        {**one, "id": one["id"] + 100 * i, **({"video_id": one["video_id"] + 100 * i} if "video_id" in one else {})}
        for i in range(5)
        for one in (*videos, *annotations)
    ]
    return document | {
        "videos": [one for one in again if "video_id" not in one],
        "annotations": [one for one in again if "video_id" in one],
    }


def _categories(preset: str) -> list[dict[str, Any]]:
    return [{"id": i, "name": name} for i, name in enumerate(MDQEConfig.preset(preset).categories, start=1)]


def _first_frames(videos: dict[str, Any]) -> dict[str, Any]:
    """The first frames of the videos as a COCO data set."""
    rows = [
        {
            "id": one["id"],
            "image_id": one["video_id"],
            "category_id": one["category_id"],
            "segmentation": one["segmentations"][0],
            "bbox": one["bboxes"][0],
            "area": one["areas"][0],
            "iscrowd": 0,
        }
        for one in videos["annotations"]
        if one["segmentations"][0] is not None
    ]
    images = [
        {"id": one["id"], "height": one["height"], "width": one["width"], "file_name": one["file_names"][0]}
        for one in videos["videos"]
    ]
    return {"categories": _categories("r50_coco"), "images": images, "annotations": rows}


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))
