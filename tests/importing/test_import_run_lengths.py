"""Masks as run lengths: MOTS text files, and COCO's JSON of frames with track ids."""

import json
from typing import Any

import numpy as np
import pytest
import truths
from truths import FRAMES, SIZE, Truth, compressed, scenes, write_frames

from mdqe.annotations.problems import Problems
from mdqe.importing.formats import import_annotations

KINDS = {"car": 1, "pedestrian": 2}


def mots_lines(video: Truth, first: int) -> list[str]:
    lines = []
    for t in range(FRAMES):
        for kind, number, mask in zip(video.categories, video.ids, video.masks[:, t], strict=True):
            if mask.any():
                lines.append(f"{first + t} {number} {KINDS[kind]} {SIZE[0]} {SIZE[1]} {compressed(mask)}")
    return lines


def mots_videos(names: tuple[str, ...]) -> list[Truth]:
    found = scenes(names, categories=tuple(KINDS))
    return [
        one._replace(ids=[1000 * KINDS[k] + i for k, i in zip(one.categories, one.ids, strict=True)]) for one in found
    ]


def test_mots_challenge(tmp_path):
    videos, files = mots_videos(("MOTS20-02", "MOTS20-11")), {}
    for video in videos:
        (tmp_path / video.name / "gt").mkdir(parents=True)
        lines = mots_lines(video, 1)
        ignored = f"2 10000 10 {SIZE[0]} {SIZE[1]} {compressed(video.masks[0, 0])}"
        (tmp_path / video.name / "gt" / "gt.txt").write_text("\n".join([*lines[:3], ignored, *lines[3:]]) + "\n")
        names = write_frames(tmp_path / video.name / "img1", pattern="{:06}.jpg", first=1)
        files[video.name] = [f"{video.name}/img1/{name}" for name in names]
    notes = Problems()
    document = import_annotations(tmp_path, notes=notes)
    truths.assert_equal(document, videos, files)
    assert document["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "pedestrian"}]
    (line,) = notes.lines()
    assert line.startswith("regions to ignore, left out (2): ") and "MOTS20-02/gt/gt.txt: line 4" in line
    truths.assert_loads(document, tmp_path, tmp_path / "annotations.json")


def test_one_sequence_of_mots_challenge(tmp_path, monkeypatch):
    """The folder of a sequence, and that it is the current one."""
    (video,) = mots_videos(("MOTS20-02",))
    (tmp_path / video.name / "gt").mkdir(parents=True)
    (tmp_path / video.name / "gt" / "gt.txt").write_text("\n".join(mots_lines(video, 1)))
    names = write_frames(tmp_path / video.name / "img1", pattern="{:06}.jpg", first=1)
    files = {video.name: [f"{video.name}/img1/{name}" for name in names]}
    truths.assert_equal(import_annotations(tmp_path / video.name), [video], files)
    monkeypatch.chdir(tmp_path / video.name)
    truths.assert_equal(import_annotations("."), [video], files)


def test_mots_of_another_size(tmp_path):
    write_frames(tmp_path / "images" / "1")
    (tmp_path / "1.txt").write_text(f"0 1001 1 24 72 {compressed(np.ones((24, 72)))}\n")
    with pytest.raises(ValueError, match=r"1.txt is for frames of 72x24; its frame has another size: .*\(72x48, not"):
        import_annotations(tmp_path / "1.txt")


def test_mots_whose_first_video_has_no_object(tmp_path):
    (video,) = mots_videos(("0002",))
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "0001.txt").touch()
    (tmp_path / "txt" / "0002.txt").write_text("\n".join(mots_lines(video, 0)))
    for name in ("0001", "0002"):
        write_frames(tmp_path / "images" / name)
    document = import_annotations(tmp_path / "txt", images=tmp_path / "images")
    assert [one["name"] for one in document["videos"]] == ["0001", "0002"]
    assert {one["video_id"] for one in document["annotations"]} == {2}


def test_kitti_mots_with_empty_frames(tmp_path):
    videos, files = mots_videos(("0002", "0010")), {}
    videos[1].masks[:, 0] = False
    (tmp_path / "instances_txt").mkdir()
    for video in videos:
        (tmp_path / "instances_txt" / f"{video.name}.txt").write_text("\n".join(mots_lines(video, 0)))
        names = write_frames(tmp_path / "image_02" / video.name, pattern="{:06}.png")
        files[video.name] = [f"{video.name}/{name}" for name in names]
    write_frames(tmp_path / "image_02" / "0010", 1, pattern="cover.png")
    notes = Problems()
    document = import_annotations(tmp_path / "instances_txt", images=tmp_path / "image_02", notes=notes)
    truths.assert_equal(document, videos, files)
    assert notes.lines() == ["images whose names do not end in a number, left out (1): 0010/cover.png"]
    one = import_annotations(tmp_path / "instances_txt" / "0002.txt", images=tmp_path / "image_02")
    truths.assert_equal(one, videos[:1], files)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2001 2 48 72", "1.txt: line 2 has 5 fields; expected time_frame object_id class_id image_height image_wid"),
        ("one 2001 2 48 72 0", "1.txt: line 2: \"time_frame\" is 'one'; expected a whole number"),
        ("1 2001 3 48 72 0", '1.txt: line 2: "class_id" is 3; expected 1 (car), 2 (pedestrian) or 10 (to ignore)'),
        ("1 2001 2 48 72 5", '1.txt: line 2: "rle": counts cover 5 pixels; size 48 x 72 has 3456'),
        ("9 2001 2 48 72 WHOLE", '1.txt: line 2: "time_frame" is 9; no image in'),
        ("1 2001 2 24 72 HALF", "1.txt: line 2: the size of the image is [24, 72]; before, it was [48, 72]"),
        ("ä", "1.txt is not a text file of MOTS"),
    ],
)
def test_bad_mots(tmp_path, line, message):
    whole, half = compressed(np.ones(SIZE)), compressed(np.ones((24, 72)))
    line = line.replace("WHOLE", whole).replace("HALF", half)
    (tmp_path / "1.txt").write_text(f"0 1001 1 {SIZE[0]} {SIZE[1]} {whole}\n{line}\n", "utf-8")
    write_frames(tmp_path / "images" / "1")
    with pytest.raises(ValueError) as caught:
        import_annotations(tmp_path / "1.txt", format="mots")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def coco_document(videos: list[Truth], keys: tuple[str, str] | None) -> dict[str, Any]:
    """Frames of videos in no order; masks as polygons cannot be had of scenes, so as both forms of run lengths."""
    document: dict[str, Any] = {"images": [], "annotations": []}
    names = sorted({kind for video in videos for kind in video.categories}, reverse=True)
    document["categories"] = [{"id": 30 + i, "name": name} for i, name in enumerate(names)]
    if keys is not None:
        document["videos"] = [{"id": 7 + i, "name": video.name} for i, video in enumerate(videos)]
    for i, video in enumerate(videos):
        for t in reversed(range(FRAMES)):
            image = {"id": len(document["images"]), "height": SIZE[0], "width": SIZE[1]}
            image["file_name"] = f"{video.name}/{t}.jpg"
            if keys is not None:
                image |= {"video_id": 7 + i, keys[0]: t}
            document["images"].append(image)
            for kind, number, mask in zip(video.categories, video.ids, video.masks[:, t], strict=True):
                if mask.any():
                    counts: Any = compressed(mask)
                    if number % 2:
                        counts = [len(list(run)) for run in runs(mask)]
                    one = {"id": len(document["annotations"]), "image_id": image["id"]}
                    one |= {
                        "category_id": 30 + names.index(kind),
                        "segmentation": {"size": list(SIZE), "counts": counts},
                    }
                    track = {"track_id": number} if keys is None else {keys[1]: number}
                    document["annotations"].append(one | ({"attributes": track} if keys is None else track))
    return document


def runs(mask) -> list[list[int]]:
    """Pixels of a mask in runs, background first, column by column."""
    from itertools import groupby

    found = [list(group) for _, group in groupby(mask.T.ravel().tolist())]
    return [[], *found] if found[0][0] else found


@pytest.mark.parametrize("keys", [None, ("frame_id", "instance_id"), ("frame_index", "track_id")])
def test_coco(tmp_path, keys):
    videos, files = scenes(("one", "two"), categories=("cat", "bird", "axolotl")), {}
    for video in videos:
        names = write_frames(tmp_path / "JPEGImages" / video.name, pattern="{}.jpg")
        files[video.name] = [f"{video.name}/{name}" for name in names]
    (tmp_path / "frames.json").write_text(json.dumps(coco_document(videos, keys)))
    notes = Problems()
    document = import_annotations(tmp_path / "frames.json", notes=notes)
    truths.assert_equal(document, videos, files)
    assert document["categories"][0] == {"id": 30, "name": "cat"} and not notes.found
    truths.assert_loads(document, tmp_path / "JPEGImages", tmp_path / "annotations.json")


def test_coco_polygons_crowds_and_what_is_left_out(tmp_path):
    shapes = truths.polygons(3)
    masks = truths.masks_of(shapes)
    write_frames(tmp_path / "clip")
    images = [{"id": t, "file_name": f"clip/{t:05}.jpg", "height": SIZE[0], "width": SIZE[1]} for t in range(FRAMES)]
    annotations: list[dict[str, Any]] = [
        {"image_id": t, "category_id": 4, "track_id": f"t{i}", "iscrowd": int(i == 2), "id": 10 * i + t}
        | {"segmentation": [[c for point in one for c in point]]}
        for i, track in enumerate(shapes)
        for t, one in enumerate(track)
        if one is not None
    ]
    annotations.append({**annotations[0], "id": 77, "track_id": None})
    annotations.append({**annotations[0], "id": 78, "segmentation": [], "bbox": [1, 2, 3, 4]})
    annotations.append({**annotations[0], "id": 79, "track_id": "thin", "segmentation": [[5, 5, 5, 5, 5, 5]]})
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 4, "name": "x"}, {"id": 9, "name": "y"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    notes = Problems()
    document = import_annotations(tmp_path / "coco.json", notes=notes)
    truth = Truth("clip", masks, ["x"] * 3, ["t0", "t1", "t2"])
    truths.assert_equal(document, [truth], {"clip": [f"clip/{t:05}.jpg" for t in range(FRAMES)]})
    assert [one["iscrowd"] for one in document["annotations"]] == [0, 0, 1]
    listed = "\n".join(notes.lines())
    assert "annotations without a track_id or instance_id, left out (1): annotation 10 (id 77)" in listed
    assert "annotations without a mask, left out (1): annotation 11 (id 78)" in listed
    assert "objects without a pixel, left out (1): clip: x thin" in listed
    overlapping = sum(bool((masks[:, t].sum(0) > 1).any()) for t in range(FRAMES))
    assert overlapping and f"frames in which objects overlap, kept as they are ({overlapping}): clip/" in listed
    truths.assert_loads(document, tmp_path, tmp_path / "annotations.json")
    # Categories can be chosen; others are listed.
    notes = Problems()
    chosen = import_annotations(tmp_path / "coco.json", categories=["y", "x"], notes=notes)
    assert chosen["categories"] == [{"id": 1, "name": "y"}, {"id": 2, "name": "x"}]
    assert {one["category_id"] for one in chosen["annotations"]} == {2}
    with pytest.raises(
        ValueError, match=r"no object is left in 1 videos; .*of other categories, left out \(4\): clip: x"
    ):
        import_annotations(tmp_path / "coco.json", categories=["y"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d.pop("images"), d.pop("videos")), 'frames.json: the file has no "images"'),
        (lambda d: d.pop("images"), "frames.json is in the form of YouTube-VIS already: it has videos and no images"),
        (lambda d: d["images"][1].pop("file_name"), 'frames.json: image 1 has no "file_name"'),
        (lambda d: d["images"][1].update(id=0), 'frames.json: image 1: "id" is 0, which is not unique'),
        (lambda d: d["images"][1].update(video_id=99), 'image 1: "video_id" is 99, which is not in videos'),
        (lambda d: d["annotations"][2].update(image_id=99), 'annotation 2 (id 2): "image_id" is 99, which is not in'),
        (lambda d: d["annotations"][2].update(track_id=[1]), 'annotation 2 (id 2): "track_id" is [1]; expected a'),
        (lambda d: d["annotations"][2].update(track_id=1.5), '"track_id" is 1.5; expected a whole number or a string'),
        (
            lambda d: d["images"][1].update(frame_id=d["images"][0]["frame_id"]),
            f"frame {FRAMES - 1} is one/{FRAMES - 1}.jpg and one/{FRAMES - 2}.jpg; images of several videos",
        ),
        (
            lambda d: d["images"][1].pop("frame_id"),
            f"no frame_id or frame_index, as one/{FRAMES - 1}.jpg of the same video has, for one/{FRAMES - 2}.jpg",
        ),
        (
            lambda d: d["images"][1].update(file_name=d["images"][0]["file_name"]),
            f"2 images of the video one are one/{FRAMES - 1}.jpg; expected one for each frame",
        ),
        (
            lambda d: d["categories"].append({"id": 99, "name": d["categories"][0]["name"]}),
            "frames.json: two categories are named '",
        ),
        (
            lambda d: d["annotations"][2].update(segmentation="x"),
            "\"segmentation\": 'x' is neither an RLE nor polygons",
        ),
        (
            lambda d: d["annotations"][2]["segmentation"].update(counts=[9]),
            'annotation 2 (id 2): "segmentation": counts',
        ),
        (
            lambda d: [one.pop("track_id") for one in d["annotations"]],
            "frames.json: no annotation is left; annotations",
        ),
    ],
)
def test_bad_coco(tmp_path, change, message):
    videos = scenes(("one",))
    write_frames(tmp_path / "one", pattern="{}.jpg")
    document = coco_document(videos, ("frame_id", "track_id"))
    for one in document["annotations"]:
        one["track_id"] = float(one["track_id"])  # as tables write it
    (tmp_path / "frames.json").write_text(json.dumps(document))
    assert type(import_annotations(tmp_path / "frames.json")["annotations"][0]["track_id"]) is int
    change(document)
    (tmp_path / "frames.json").write_text(json.dumps(document))
    with pytest.raises(ValueError) as caught:
        import_annotations(tmp_path / "frames.json")
    assert message in str(caught.value) and "\n" not in str(caught.value)


SA_V = {"video_id": "sav_000001", "video_frame_count": 2, "masklet": [[{"size": [2, 2], "counts": "04"}]]}
TAO = {
    "images": [{"id": 1, "video_id": 1, "file_name": "a/1.jpg", "height": 2, "width": 2}],
    "videos": [{"id": 1, "name": "a", "neg_category_ids": [3], "not_exhaustive_category_ids": []}],
    "tracks": [{"id": 1, "category_id": 1, "video_id": 1}],
    "annotations": [{"id": 1, "image_id": 1, "track_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
    "categories": [{"id": 1, "name": "cat"}],
}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (SA_V, "is in the form of SA-V (masklets of one video), which mdqe import does not read"),
        (TAO, "is in the form of TAO, whose objects are boxes; mdqe import needs masks"),
        ({"format": "mdqe-instances", "version": 1}, "is a result of mdqe segment; mdqe write writes it in other form"),
        ([{"video_id": 1, "score": 0.5}], "is a list, as results are; mdqe import reads annotations"),
        ({"videos": [], "annotations": []}, "is in the form of YouTube-VIS already: it has videos and no images"),
    ],
)
def test_other_json_files_are_named(tmp_path, document, message):
    path = tmp_path / "v" / "sav_000001_manual.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    for source in (path, path.parent, tmp_path):
        with pytest.raises(ValueError) as caught:
            import_annotations(source)
        assert str(caught.value) == f"{path} {caught.value.args[0].split(' ', 1)[1]}"
        assert message in str(caught.value) and "\n" not in str(caught.value)
