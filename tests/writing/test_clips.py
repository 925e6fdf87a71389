"""Which tracks are written, under which names, and the errors of sources that cannot be written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdqe.annotations.problems import Problems
from mdqe.importing.formats import import_annotations
from mdqe.results import rle
from mdqe.results.instances import VideoInstances
from mdqe.writing.clips import open_clips
from mdqe.writing.formats import write_results
from mdqe.writing.pngs import palette

SIZE = (6, 8)


def instances(path: Path, **fields) -> Path:
    """Three tracks over two frames; the first has two categories."""
    masks = np.zeros((4, 2, *SIZE), bool)
    for i in range(4):
        masks[i, :, 1:3, 2 * i : 2 * i + 2] = True
    values = {"scores": [0.4, 0.8, 0.9, 0.2], "labels": [0, 1, 0, 0], "track_ids": [5, 5, 0, 7]}
    values |= {"categories": ("cat", "dog")} | fields
    result = VideoInstances.from_masks(
        values.pop("scores"), values.pop("labels"), values.pop("track_ids"), masks, **values
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    result.save(path)
    return path


def row(video: int, **more) -> dict:
    mask = rle.to_coco(rle.encode(np.ones((1, *SIZE), bool))[0], SIZE)
    return {"video_id": video, "category_id": 3, "score": 0.9, "segmentations": [mask, None], **more}


def test_the_best_result_of_a_track_is_written(tmp_path):
    notes = Problems()
    (clip,) = open_clips(instances(tmp_path / "a" / "instances.json"), notes, threshold=0.3).items
    assert [(one.id, clip.category(one), one.score) for one in clip.tracks] == [(0, "cat", 0.9), (5, "dog", 0.8)]
    assert (clip.name, clip.files) == ("a", ["a/00000.jpg", "a/00001.jpg"])
    assert notes.lines() == [
        "results of a track that has a better one, left out (1): a: result 0",
        "results with a score below 0.3, left out (1): a: result 3",
    ]


def test_categories_of_several_videos(tmp_path):
    """Categories keep their ids where the videos agree; otherwise they are numbered by name."""
    instances(tmp_path / "a" / "instances.json", category_ids=(11, 12))
    instances(tmp_path / "b" / "instances.json", category_ids=(11, 12))
    write_results(tmp_path, tmp_path / "all.json", format="ytvis")
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["categories"] == [{"id": 11, "name": "cat"}, {"id": 12, "name": "dog"}]
    instances(tmp_path / "b" / "instances.json", categories=("eel", "cat"))
    notes = Problems()
    write_results(tmp_path, tmp_path / "all.json", format="ytvis", notes=notes)
    document = json.loads((tmp_path / "all.json").read_text())
    assert [one["name"] for one in document["categories"]] == ["cat", "dog", "eel"]
    names = {one["id"]: one["name"] for one in document["categories"]}
    found = [(one["video_id"], names[one["category_id"]]) for one in document["annotations"]]
    assert found == [(1, "cat"), (1, "dog"), (2, "eel"), (2, "cat")]
    assert "categories with new ids, because the videos have different ids for them (1): cat, dog, eel" in notes.lines()


def test_results_alone(tmp_path):
    """The id of a video is its name, and tracks without ids are numbered."""
    (tmp_path / "results.json").write_text(json.dumps([row(4), row(2, track_id=9), row(4)]))
    clips = list(open_clips(tmp_path, Problems()).items)
    assert [(one.name, one.size, len(one.tracks), one.category(one.tracks[0])) for one in clips] == [
        ("4", SIZE, 2, "category 3"), ("2", SIZE, 1, "category 3"),
    ]  # fmt: skip
    notes = Problems()
    write_results(tmp_path, tmp_path / "out", format="id-png", notes=notes)
    assert "videos whose objects are numbered from 1, because some have no track id (1): 4" in notes.lines()
    assert np.asarray(Image.open(tmp_path / "out" / "2" / "00000.png")).max() == 9
    assert np.asarray(Image.open(tmp_path / "out" / "4" / "00000.png")).max() == 1


def test_frames_have_the_names_of_the_images(tmp_path):
    for name in ("x 7.png", "x 12.png"):
        (tmp_path / "images" / "a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / "a" / name)
    path = instances(tmp_path / "a" / "instances.json", categories=("car", "pedestrian"))
    write_results(path, tmp_path / "out", format="mots", images=tmp_path / "images")
    lines = (tmp_path / "out" / "a.txt").read_text().splitlines()
    assert [line.split()[:5] for line in lines] == [
        [t, number, kind, "6", "8"] for t in ("7", "12") for number, kind in (("1000", "1"), ("2005", "2"))
    ]
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / "a" / "x 13.png")
    with pytest.raises(ValueError, match=r"images/a has 3 images; a of .*instances.json has 2 frames"):
        write_results(path, tmp_path / "out", format="mots", images=tmp_path / "images")


def test_mots_has_two_classes_and_regions_to_ignore(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    for t in range(2):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / "a" / f"{t}.png")
    half = np.zeros((1, *SIZE), bool)
    half[:, :, :4] = True
    masks = [rle.to_coco(rle.encode(one)[0], SIZE) for one in (half, ~half, ~half)]
    document = {
        "videos": [{"id": 1, "height": 6, "width": 8, "length": 2, "file_names": ["a/0.png", "a/1.png"]}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "boat"}],
        "annotations": [
            {"id": i, "video_id": 1, "category_id": 1 + i // 2, "iscrowd": i % 2, "segmentations": [mask, None]}
            for i, mask in enumerate(masks)
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    notes = Problems()
    write_results(tmp_path / "annotations.json", tmp_path / "out", format="mots-png", notes=notes)
    values = np.asarray(Image.open(tmp_path / "out" / "a" / "0.png"))
    assert (values == np.where(half[0], 1000, 10000)).all()
    assert notes.lines() == ["objects of categories other than car or pedestrian, left out (1): a: boat"]
    write_results(tmp_path / "annotations.json", tmp_path / "davis", format="davis")
    values = np.asarray(Image.open(tmp_path / "davis" / "Annotations" / "a" / "0.png"))
    assert set(values[half[0]]) == {1} and set(values[~half[0]]) == {2}, "an object is in front of a crowd"
    found = import_annotations(tmp_path / "out", format="mots-png", images=tmp_path / "images")
    assert len(found["annotations"]) == 1


def test_palette():
    """The first colours are those of PASCAL VOC's documentation."""
    colours = np.frombuffer(palette(), np.uint8).reshape(256, 3).tolist()
    assert colours[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert (colours[15], colours[20], colours[255]) == ([192, 128, 128], [0, 64, 128], [224, 224, 192])
    assert len({tuple(one) for one in colours}) == 256


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "an object that is neither instances.json, results, nor annotations with videos"),
        ([row(1) | {"segmentations": [None]}], "no result of video 1 has an RLE; the size of the video is unknown"),
        ([row(1, segmentations=[{"size": [2**30, 2**30], "counts": "0"}])], "1 has 1 frames of 1073741824x1073741824"),
        ([row(1), row(1, segmentations=[None])], 'result 1: "segmentations" is a list of 1; its video has 2 frames'),
        ([row(1, segmentations=[{"size": [6, 8], "counts": "1"}])], 'result 0: "segmentations" in frame 0: counts'),
        (
            {
                "format": "mdqe-instances",
                "version": 1,
                "video": {"id": 1, "height": 6, "width": 8, "length": 2**30, "first_frame": 0, "fps": None},
                "categories": [],
                "results": [],
            },
            "has 1073741824 frames of 8x6; expected 1 to 1000000 frames of 1 to 268435456 pixels",
        ),
        ({"format": "mdqe-instances", "version": 9}, "does not hold saved instances: version 9"),
    ],
)
def test_bad_sources(tmp_path, content, message):
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        write_results(path, tmp_path / "out", format="coco")
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_fit(tmp_path):
    path = instances(tmp_path / "a" / "instances.json")
    with pytest.raises(ValueError, match="format is 'xml'; expected one of id-png, davis, "):
        write_results(path, tmp_path / "out", format="xml")
    with pytest.raises(ValueError, match="polygons are for cvat and labelme; the format is coco"):
        write_results(path, tmp_path / "out", format="coco", polygons=1)
    with pytest.raises(FileNotFoundError, match=r"is not a file, nor a folder with instances.json, \*/instances.json"):
        write_results(tmp_path / "nowhere", tmp_path / "out", format="coco")
    with pytest.raises(ValueError, match="contains the categories of its results; a data set is for"):
        write_results(path, tmp_path / "out", format="coco", data=path)
