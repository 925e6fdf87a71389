"""Damaged annotations and results: read, or one error that names the file, in limited time."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from annotated_sets import coco_document, write_videos
from fuzzing import accepts
from mutations import mutations

from mdqe.data.coco import PseudoClips
from mdqe.data.ytvis import VideoClips
from mdqe.evaluation import evaluate
from mdqe.evaluation.coco import evaluate_coco
from mdqe.results.instances import VideoInstances

COUNT = 120


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_videos(folder, 2)
    return folder


@pytest.fixture(scope="module")
def videos(home) -> dict[str, Any]:
    return json.loads((home / "annotations.json").read_text())


def check(path: Path, document: Any, seed: int, read: Callable[[], Any], *names: Path) -> None:
    path.write_text(json.dumps(document))
    read()
    accepted = 0
    for data in mutations(document, COUNT, seed):
        path.write_bytes(data)
        accepted += accepts(read, path, *names)
    assert accepted < COUNT / 2


def results_of(document: dict[str, Any], item: str, masks: str) -> list[dict[str, Any]]:
    """The annotated objects as results."""
    keys = (item, "category_id", masks)
    return [{"score": 0.9} | {key: one[key] for key in keys} for one in copy.deepcopy(document["annotations"])]


@pytest.mark.parametrize("skip_bad", [False, True])
def test_videos_for_training(home, videos, tmp_path, skip_bad):
    path, images = tmp_path / "annotations.json", home / "JPEGImages"

    def read() -> None:
        clips = VideoClips(path, images, clip_length=2, skip_bad=skip_bad)
        for index in range(len(clips)):
            clips.clip(index, torch.Generator().manual_seed(0))

    check(path, videos, 0, read, images)


def test_images_for_training(home, videos, tmp_path):
    path, images = tmp_path / "annotations.json", home / "JPEGImages"

    def read() -> None:
        clips = PseudoClips(path, images, clip_length=2)
        for index in range(len(clips)):
            clips.clip(index, torch.Generator().manual_seed(0))

    check(path, coco_document(videos), 1, read, images)


def test_annotations_of_an_evaluation(videos, tmp_path):
    path, results = tmp_path / "annotations.json", tmp_path / "results.json"
    results.write_text(json.dumps(results_of(videos, "video_id", "segmentations")))
    check(path, videos, 2, lambda: evaluate(path, results), results)


def test_results_of_videos(videos, tmp_path):
    path = tmp_path / "results.json"
    check(path, results_of(videos, "video_id", "segmentations"), 3, lambda: evaluate(videos, path))


def test_results_of_images(videos, tmp_path):
    path, document = tmp_path / "results.json", coco_document(videos)
    check(path, results_of(document, "image_id", "segmentation"), 4, lambda: evaluate_coco(document, path))


def test_saved_instances(tmp_path):
    masks = torch.zeros(2, 3, 12, 16, dtype=torch.bool)
    masks[0, :, 2:5, 3:9] = masks[1, 1:, 7:11, 1:5] = True
    names = {"categories": ("cat", "dog"), "category_ids": (3, 7)}
    instances = VideoInstances.from_masks([0.9, 0.4], [0, 1], [0, 1], masks.numpy(), size=(12, 16), frames=3, **names)
    path = tmp_path / "video.json"
    instances.save(path)
    check(path, json.loads(path.read_text()), 5, lambda: VideoInstances.load(path).masks.sum())


@pytest.mark.parametrize("size", [(2**31, 2**31), (2**62, 2), (60_000, 60_000)])
def test_frames_of_billions_of_pixels(videos, tmp_path, size):
    """A polygon in such a frame would need a mask of that size."""
    document = copy.deepcopy(videos)
    document["videos"][0] |= {"height": size[0], "width": size[1]}
    for one in document["annotations"]:
        one["segmentations"] = [[[1, 2, 20, 3, 9, 30]] for _ in one["segmentations"]]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    assert not accepts(lambda: evaluate(path, []), path)
