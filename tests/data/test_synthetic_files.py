"""Synthetic sets on disk, read with other software."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from mdqe.data.synthetic import CATEGORIES, Difficulty, draw_video
from mdqe.data.synthetic_files import write_set

SIZE = (64, 96)
DIFFICULTY = Difficulty((4, 6), occlusion=1.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of two videos, each drawn in two parts, and their annotations."""
    folder = tmp_path_factory.mktemp("sets") / "shapes"
    paths = list(
        write_set(folder, videos=2, frames=19, seed=8, size=SIZE, difficulty=DIFFICULTY, images="png", mp4=True)
    )
    assert len(paths) == 38 and all((folder / path).is_file() for path in paths)
    return folder, json.loads((folder / "annotations.json").read_text())


def drawings():
    return [draw_video(8, index, frames=19, size=SIZE, difficulty=DIFFICULTY) for index in range(2)]


def test_frames_equal_the_drawing(written):
    folder, document = written
    assert [video["id"] for video in document["videos"]] == [1, 2]
    for video, drawing in zip(document["videos"], drawings(), strict=True):
        assert (video["height"], video["width"], video["length"]) == (*SIZE, 19)
        for name, frame in zip(video["file_names"], drawing.frames, strict=True):
            with Image.open(folder / "JPEGImages" / name) as image:
                assert np.array_equal(np.array(image), frame)


def test_annotations_equal_the_drawing(written):
    _, document = written
    assert [(one["id"], one["name"]) for one in document["categories"]] == list(enumerate(CATEGORIES, 1))
    found = iter(document["annotations"])
    for video, drawing in enumerate(drawings(), 1):
        for label, masks, hidden in zip(drawing.labels, drawing.masks, drawing.hidden, strict=True):
            if not masks.any():
                continue
            annotation = next(found)
            assert (annotation["video_id"], annotation["category_id"]) == (video, label + 1)
            assert annotation["iscrowd"] == 0 and (annotation["height"], annotation["width"]) == SIZE
            for t, mask in enumerate(masks):
                keys = ("segmentations", "bboxes", "areas", "occlusion")
                segmentation, box, area, occlusion = (annotation[key][t] for key in keys)
                degree = annotation["occlusion_degree"][t]
                assert (degree is None) == np.isnan(hidden[t])
                assert degree is None or degree == pytest.approx(hidden[t], abs=1e-4)
                if not mask.any():
                    assert segmentation is box is area is occlusion is None
                    continue
                assert np.array_equal(coco.decode(segmentation), mask)
                assert box == coco.toBbox(segmentation).tolist() and area == mask.sum()
                level = int(hidden[t] >= 0.05) + int(hidden[t] >= 0.5)
                assert occlusion == ("no_occlusion", "slight_occlusion", "severe_occlusion")[level]
    assert next(found, None) is None
    assert [one["id"] for one in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    levels = {level for one in document["annotations"] for level in one["occlusion"]}
    assert levels >= {"no_occlusion", "slight_occlusion", "severe_occlusion"}


def test_video_files(written):
    from mdqe.video.read import open_frames

    folder, _ = written
    for index, drawing in enumerate(drawings()):
        read = np.stack(list(open_frames(folder / "videos" / f"{index:05}.mp4")))
        assert read.shape == drawing.frames.shape
        assert np.abs(read.astype(int) - drawing.frames).mean() < 6


def test_the_settings_are_saved(written):
    info = written[1]["info"]
    assert (info["seed"], info["objects"], info["similarity"], info["occlusion"]) == (8, [4, 6], 0.5, 1.0)


def test_jpeg(tmp_path):
    folder = tmp_path / "new" / "set"
    paths = list(write_set(folder, videos=1, frames=2, size=SIZE))
    assert [str(path) for path in paths] == ["JPEGImages/00000/00000.jpg", "JPEGImages/00000/00001.jpg"]
    assert sorted(path.name for path in folder.iterdir()) == ["JPEGImages", "annotations.json"]
    frames = draw_video(0, frames=2, size=SIZE).frames
    with Image.open(folder / paths[1]) as image:
        assert image.format == "JPEG"
        assert np.abs(np.array(image).astype(int) - frames[1]).mean() < 3


def test_interrupted_sets_are_removed(tmp_path):
    writing = write_set(tmp_path / "set", videos=2, frames=3, size=SIZE, mp4=True)
    next(writing)
    assert [path.name for path in tmp_path.iterdir()] == ["set.partial"]
    writing.close()
    assert list(tmp_path.iterdir()) == []


def test_used_folders_are_kept(tmp_path):
    kept = tmp_path / "set" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(FileExistsError, match="set already exists"):
        write_set(tmp_path / "set", videos=1)
    with pytest.raises(FileExistsError, match=r"notes\.txt already exists"):
        write_set(kept, videos=1)
    kept.unlink()
    assert len(list(write_set(tmp_path / "set", videos=1, frames=1, size=SIZE))) == 1, "an empty folder is allowed"

    left = tmp_path / "other.partial" / "frame.jpg"
    left.parent.mkdir()
    left.write_text("partial")
    with pytest.raises(FileExistsError, match=r"other\.partial exists from an interrupted run"):
        write_set(tmp_path / "other", videos=1)
    assert left.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"videos": 0}, "videos is 0"),
        ({"frames": 0}, "frames is 0"),
        ({"images": "gif"}, "images is 'gif', expected jpg or png"),
        ({"size": (8, 8)}, "size is 8x8"),
        ({"seed": -3}, "seed and index are -3"),
        ({"mp4": True, "fps": 0}, "fps is 0"),
    ],
)
def test_invalid_arguments_create_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_set(tmp_path / "set", **{"videos": 1, **arguments})
    assert list(tmp_path.iterdir()) == []
