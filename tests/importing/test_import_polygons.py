"""Shapes that people draw: LabelMe's JSON files and CVAT's XML."""

import base64
import json
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import truths
from truths import FRAMES, SIZE, Truth, png, scenes, write_frames

from mdqe.annotations.problems import Problems
from mdqe.importing.formats import import_annotations


def labelme(shapes: list[dict[str, Any]], image: str) -> str:
    head = {"version": "5.5.0", "flags": {}, "imagePath": image, "imageData": None}
    return json.dumps({**head, "shapes": shapes, "imageHeight": SIZE[0], "imageWidth": SIZE[1]})


def shape(
    label: str, group: int | None, points: list[list[float]], kind: str = "polygon", **more: Any
) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, **more}


def test_labelme(tmp_path):
    files, videos = {}, []
    for seed, name in enumerate(("first", "second")):
        tracks = truths.polygons(seed)
        masks = truths.masks_of(tracks)
        names = write_frames(tmp_path / name, FRAMES + 1)[:-1]
        square = [[2.0, 3.0], [11.0, 9.0]]
        for t, image in enumerate(names):
            shapes = [
                shape("cat" if i < 2 else "dog", 5 + i, track[t])
                for i, track in enumerate(tracks)
                if track[t] is not None
            ]
            part = [[40, 20], [52, 26], [48, 34], [36, 28]]
            shapes.append(shape("dog", 7, part))  # another part of it
            masks[2, t] |= truths.filled(part)
            shapes += [shape("cat", None, square, "rectangle"), shape("cat", 1, square, "circle")]
            shapes += [shape("dog", 7, square, "rectangle"), shape("__ignore__", None, part)]
            (tmp_path / name / image).with_suffix(".json").write_text(labelme(shapes, image))
        files[name] = [f"{name}/{image}" for image in names]
        videos.append(Truth(name, masks, ["cat", "cat", "dog"], [5, 6, 7]))
    notes = Problems()
    document = import_annotations(tmp_path, notes=notes)
    truths.assert_equal(document, videos, files)
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    listed = "\n".join(notes.lines())
    assert "images without annotations, left out (2): first/00004.jpg; second/00004.jpg" in listed
    assert "shapes without a group_id, left out (8): " in listed and "first/00000.json: shape 4 (cat); " in listed
    assert "shapes other than polygons and masks, left out (16): " in listed
    assert "(circle)" in listed and "(rectangle)" in listed
    assert "regions to ignore, left out (8): " in listed and "(__ignore__)" in listed
    truths.assert_loads(document, tmp_path, tmp_path / "annotations.json")
    assert import_annotations(tmp_path) == document, "the file that was written there is ignored"


def test_labelme_masks_in_one_folder_and_images_elsewhere(tmp_path):
    (video,) = scenes(("drawn",), categories=("fish", "crab"))
    (tmp_path / "drawn").mkdir()
    names = write_frames(tmp_path / "frames" / "drawn", pattern="frame {}.png")
    for t, image in enumerate(names):
        shapes = []
        for kind, number, mask in zip(video.categories, video.ids, video.masks[:, t], strict=True):
            if mask.any():
                ys, xs = np.nonzero(mask)
                corners = [[float(xs.min()), float(ys.min())], [float(xs.max()), float(ys.max())]]
                part = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
                data = base64.b64encode(png(part * (255 if t else 1))).decode()
                shapes.append(shape(kind, number, corners, "mask", mask=data))
        document = json.loads(labelme(shapes, f"..\\frames\\{image}"))
        if t == 0:
            document["imageHeight"] = None
        (tmp_path / "drawn" / f"{t}.json").write_text(json.dumps(document))
    document = import_annotations(tmp_path / "drawn", images=tmp_path / "frames")
    truths.assert_equal(document, [video], {"drawn": [f"drawn/{name}" for name in names]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 5}, 'shape 0: "label" is a number; expected a string'),
        ({"group_id": "x"}, "shape 0: \"group_id\" is 'x'; expected a whole number"),
        ({"points": [[1, 2], [3, 4]]}, 'shape 0: "points" is a list of 2; expected 3 or more of [x, y]'),
        ({"points": [[1, 2], [3, 4], [5]]}, 'shape 0: "points" is a list with [5]; expected [x, y]'),
        (
            {"points": [[1, 2], [3, 4], [5, 9e9]]},
            'shape 0: "points" is invalid: a polygon extends far beyond the frame',
        ),
        ({"shape_type": "mask"}, 'shape 0 has no "mask"'),
        ({"shape_type": "mask", "mask": "!"}, "shape 0: \"mask\" is '!'; expected a PNG image in base64"),
        ({"shape_type": "mask", "mask": "AAAA"}, 'shape 0: "mask" is not a PNG image in base64'),
        (
            {"shape_type": "mask", "mask": base64.b64encode(png(np.ones((48, 72)))).decode()},
            'shape 0: "mask" is 72x48 at 1, 2, which is not within the image of 72x48',
        ),
    ],
)
def test_bad_labelme(tmp_path, change, message):
    (image,) = write_frames(tmp_path / "v", 1)
    shapes = [shape("a", 1, [[1, 2], [30, 4], [20, 30]]) | change]
    (tmp_path / "v" / "00000.json").write_text(labelme(shapes, image))
    with pytest.raises(ValueError) as caught:
        import_annotations(tmp_path)
    assert f"00000.json: {message}" in str(caught.value) and "\n" not in str(caught.value)


def test_one_file_of_labelme(tmp_path):
    (image,) = write_frames(tmp_path / "v", 1)
    path = tmp_path / "v" / "00000.json"
    path.write_text(labelme([shape("a", 1, [[1, 2], [30, 4], [20, 30]])], image))
    with pytest.raises(ValueError, match="the LabelMe file of one frame; name the folder that contains the files of"):
        import_annotations(path)
    with pytest.raises(ValueError, match=r"has the shapes of one frame; name the folder of all: .*/v$"):
        import_annotations(path, format="labelme")


def test_labelme_of_another_size(tmp_path):
    (image,) = write_frames(tmp_path / "v", 1)
    document = json.loads(labelme([shape("a", 1, [[1, 2], [30, 4], [20, 30]])], image)) | {"imageHeight": 20}
    (tmp_path / "v" / "00000.json").write_text(json.dumps(document))
    with pytest.raises(
        ValueError, match=r"v/00000.json is for frames of 72x20; its frame has another size: .*\(72x48,"
    ):
        import_annotations(tmp_path)


def test_labelme_without_its_image(tmp_path):
    write_frames(tmp_path / "v", 1)
    (tmp_path / "v" / "x.json").write_text(labelme([], "y.jpg"))
    with pytest.raises(FileNotFoundError, match=r"x\.json has no frame: there is no image x or y; --images names"):
        import_annotations(tmp_path)


def cvat(tracks: list[tuple[int, str, list[str]]], head: str = "", size: int = FRAMES) -> str:
    """A file of tracks, each with its id, its label and the elements of its shapes."""
    body = "".join(f'<track id="{i}" label="{label}" source="manual">{"".join(e)}</track>' for i, label, e in tracks)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task><id>5</id>'
        f"<name>n</name><size>{size}</size><mode>interpolation</mode>{head}<labels><label><name>cat</name></label></labels>"
        f"<segments><segment><id>1</id><start>0</start><stop>9</stop></segment></segments></task></meta>\n{body}\n"
        "</annotations>\n"
    )


CORNERS = [[1.0, 2.0], [30.0, 4.0], [20.0, 30.0]]
SIZES = f"<original_size><width>{SIZE[1]}</width><height>{SIZE[0]}</height></original_size>"


def polygon(frame: int, points: list[list[float]], order: int = 0, outside: int = 0) -> str:
    text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return (
        f'<polygon frame="{frame}" keyframe="1" outside="{outside}" occluded="0" points="{text}" z_order="{order}">'
        '<attribute name="colour">red &amp; blue</attribute></polygon>'
    )


def polygons_of(track: list[list[list[float]] | None], order: int = 0) -> list[str]:
    """The shapes of a track, outside where the object is absent."""
    return [polygon(t, one or CORNERS, order, outside=int(one is None)) for t, one in enumerate(track)]


def masks_of(masks: np.ndarray, start: int = 0, step: int = 1) -> list[str]:
    """The shapes of a track of masks, outside where the object is absent."""
    absent = '<mask frame="{}" outside="1" rle="0,1" left="0" top="0" width="1" height="1"/>'
    frames = [(start + step * t, mask) for t, mask in enumerate(masks)]
    return [mask_element(t, mask) if mask.any() else absent.format(t) for t, mask in frames]


def mask_element(frame: int, mask: np.ndarray) -> str:
    ys, xs = np.nonzero(mask)
    part = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    runs = [(value, len(list(group))) for value, group in groupby(part.ravel().tolist())]
    counts = [0] * runs[0][0] + [length for _, length in runs]
    place = f'left="{xs.min()}" top="{ys.min()}" width="{part.shape[1]}" height="{part.shape[0]}"'
    text = ", ".join(map(str, counts))
    return f'<mask frame="{frame}" keyframe="1" outside="0" occluded="0" rle="{text}" {place} z_order="0"></mask>'


@pytest.mark.parametrize("packed", [True, False])
def test_cvat(tmp_path, packed):
    """Polygons of which some hide others, as CVAT packs several videos and as XML files beside their frames."""
    files, videos = {}, []
    for seed, name in enumerate(("left", "right")):
        shapes = truths.polygons(seed + 20)
        masks = truths.masks_of(shapes)
        orders, painted = [1, 0, 4], np.zeros((FRAMES, *SIZE), bool)
        for i in np.argsort(orders)[::-1]:
            masks[i], painted = masks[i] & ~painted, painted | masks[i]
        tracks = []
        for i, track in enumerate(shapes):
            elements = polygons_of(track, orders[i])
            elements.append('<box frame="0" outside="0" xtl="1" ytl="2" xbr="3" ybr="4"/>' if i == 0 else "")
            tracks.append((i, "cat" if i else "dog", elements))
        home = tmp_path / name / "annotations.xml" if packed else tmp_path / f"{name}.xml"
        folder = tmp_path / name / "images" if packed else tmp_path / "images" / name
        names = write_frames(folder, pattern="frame_{:06}.PNG")
        home.write_text(cvat(tracks, SIZES))
        files[name] = [f"{name}/{'images/' if packed else ''}{image}" for image in names]
        videos.append(Truth(name, masks, ["dog", "cat", "cat"], [0, 1, 2]))
    notes = Problems()
    document = import_annotations(tmp_path, notes=notes)
    truths.assert_equal(document, videos, files)
    root = tmp_path if packed else tmp_path / "images"
    truths.assert_loads(document, root, tmp_path / "annotations.json")
    listed = "\n".join(notes.lines())
    assert "shapes other than polygons and masks, left out (2): " in listed and "line 5: box of track 0" in listed
    assert "frames in which shapes hide parts of others (z_order) (" in listed
    one = import_annotations(tmp_path / "left" / "annotations.xml" if packed else tmp_path / "left.xml")
    assert one["videos"][0]["name"] == "left"
    assert one["annotations"] == [a for a in document["annotations"] if a["video_id"] == 1]


@pytest.mark.parametrize(("start", "first"), [(0, 1), (100, 100), (100, 0)])
def test_cvat_masks_and_numbers_of_frames(tmp_path, start, first):
    """Every fifth frame of a longer video; its images numbered from 1, as their numbers there, or from 0."""
    (video,) = scenes(("clip",), categories=("cat",))
    tracks = [(number, "cat", masks_of(masks, start, 5)) for number, masks in zip(video.ids, video.masks, strict=True)]
    head = f"<start_frame>{start}</start_frame><stop_frame>{start + 20}</stop_frame><frame_filter>step=5</frame_filter>"
    (tmp_path / "clip.xml").write_text(cvat(tracks, head))
    step = 5 if first == start else 1
    names = [write_frames(tmp_path / "images", 1, first=first + step * t)[0] for t in range(FRAMES)]
    document = import_annotations(tmp_path / "clip.xml")
    truths.assert_equal(document, [video], {"clip": names})


LAUGHS = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotations>&y;</annotations>'
SECRET = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;</annotations>'


def one(element: str, **options: Any) -> str:
    return cvat([(4, "cat", [element, polygon(1, CORNERS, outside=1)])], **options)


MASK = '<mask frame="0" outside="0" rle="{}" left="{}" top="2" width="2" height="3"/>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, '"<!DOCTYPE>" is not allowed: it may contain entities'),
        (SECRET, '"<!DOCTYPE>" is not allowed: it may contain entities'),
        ("<annotations><meta>", "clip.xml is not XML: no element found"),
        ('<?xml version="1.0" encoding="utf-9"?><annotations/>', "clip.xml is not XML: unknown encoding: utf-9"),
        ("<other/>", 'line 1: "<other>" is the first element; expected <annotations>'),
        ('<annotations><image id="0"/></annotations>', '"<image>" is of CVAT for images; export as CVAT for video 1.1'),
        (
            "<annotations><meta><project/></meta></annotations>",
            '"<project>" is of several tasks; export each by itself',
        ),
        ("<annotations></annotations>", '"size" is missing; expected a whole number from 1'),
        (one(polygon(9, CORNERS)), 'line 5: polygon of track 4: "frame" is 9; its frames are 0 to 3'),
        (one('<polygon frame="x" points=""/>'), "line 5: \"frame\" is 'x'; expected a whole number from 0"),
        (one('<polygon frame="0" points="1,2;3;4,5"/>'), "line 5: \"points\" is '1,2;3;4,5'; expected x,y;x,y;…"),
        (one('<polygon frame="0" points="1,2;3,a;4,5"/>'), "line 5: \"points\" is '1,2;3,a;4,5'; expected x,y;x,y;…"),
        (
            one('<polygon frame="0" points="1,2;4,5"/>'),
            'line 5: polygon of track 4: "points": a polygon is not a list of x and y',
        ),
        (one(MASK.format("0,7", 1)), 'line 5: "rle" is of 7 pixels; width x height is 6'),
        (one(MASK.format("0,-6", 1)), "line 5: \"rle\" is '-6'; expected a whole number from 0"),
        (one(MASK.format("0,6", 71)), "line 5: mask of track 4: the mask extends beyond the image, which is 72x48"),
        (one(polygon(0, CORNERS), size=7), "images has 4 images; "),
    ],
)
def test_bad_cvat(tmp_path, text, message):
    (tmp_path / "clip.xml").write_text(text)
    write_frames(tmp_path / "images")
    with pytest.raises(ValueError) as caught:
        import_annotations(tmp_path / "clip.xml", format="cvat")
    assert message in str(caught.value) and "clip.xml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frames", "outside", "missing"),
    [
        ([0, 3], [], 1),
        ([1], [], 2),
        ([0, 1], [3], 2),
        ([2], [], 3),
        ([0, 3], [1], None),
        ([1], [2], None),
        ([3], [0], None),
    ],
)
def test_cvat_key_frames_only(tmp_path, frames, outside, missing):
    """Where a track has neither a shape nor is outside, CVAT would show a shape between those of its key frames."""
    write_frames(tmp_path / "images")
    elements = [polygon(t, CORNERS, outside=int(t in outside)) for t in sorted(frames + outside)]
    (tmp_path / "clip.xml").write_text(cvat([(4, "cat", elements)]))
    if missing is None:
        (found,) = import_annotations(tmp_path / "clip.xml")["annotations"]
        assert [t for t, area in enumerate(found["areas"]) if area] == frames
        return
    message = f"track 4 has no shape in frame {missing}, after frame {missing - 1}, and no shape with outside=.1. there"
    with pytest.raises(ValueError, match=message):
        import_annotations(tmp_path / "clip.xml")
