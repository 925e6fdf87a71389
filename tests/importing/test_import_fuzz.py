"""Damaged annotations of every format: imported, or one error that names a file, in limited time."""

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import truths
from fuzzing import accepts, damaged_bytes, damaged_texts
from mutations import mutations
from test_import_polygons import SIZES, cvat, labelme, masks_of, polygon, polygons_of, shape
from test_import_run_lengths import coco_document, mots_lines, mots_videos
from truths import FRAMES, png, scenes, write_frames

from mdqe.importing.formats import import_annotations
from mdqe.results import rle

COUNT = 80


def check(path: Path, variants: Iterator[bytes], source: Path, **options: Any) -> None:
    """Import `source` with each variant in the place of a file. The file itself is valid, and most variants are not."""
    import_annotations(source, **options)
    original, accepted, count = path.read_bytes(), 0, 0
    for data in variants:
        path.write_bytes(data)
        count += 1
        accepted += accepts(lambda: import_annotations(source, **options), path, path.parent, source)
    path.write_bytes(original)
    assert count == COUNT and accepted < count / 2
    import_annotations(source, **options)


@pytest.mark.parametrize("given", [None, "coco"])
def test_coco(tmp_path, given):
    document = coco_document(scenes(("a",)), ("frame_id", "track_id") if given else None)
    document["annotations"][0]["segmentation"] = [[1.0, 2.0, 20.0, 4.0, 9.0, 30.0]]
    write_frames(tmp_path / "a", pattern="{}.jpg")
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    check(path, mutations(document, COUNT, 0), path, format=given)


@pytest.mark.parametrize("given", [None, "labelme"])
def test_labelme(tmp_path, given):
    names = write_frames(tmp_path / "v")
    square = [[2.0, 3.0], [11.0, 9.0]]
    for t, name in enumerate(names):
        shapes = [shape("cat", i, track[t]) for i, track in enumerate(truths.polygons(0)) if track[t]]
        mask = {"mask": base64.b64encode(png(scenes(("a",))[0].masks[0, 0, :7, :10] * 1)).decode()}
        shapes += [shape("dog", 7, square, "rectangle"), shape("dog", 8, square, "mask", **mask)]
        (tmp_path / "v" / name).with_suffix(".json").write_text(labelme(shapes, name))
    path = tmp_path / "v" / "00000.json"
    check(path, mutations(json.loads(path.read_text()), COUNT, 1), tmp_path, format=given)


@pytest.mark.parametrize("given", [None, "cvat"])
def test_cvat(tmp_path, given):
    write_frames(tmp_path / "images" / "v", pattern="frame_{:06}.png")
    tracks = [(i, "cat", polygons_of(track, order=i)) for i, track in enumerate(truths.polygons(0))]
    tracks.append((9, "dog", masks_of(scenes(("a",))[0].masks[0])))
    path = tmp_path / "v.xml"
    path.write_text(cvat(tracks, SIZES).replace("<track", "\n<track").replace("<polygon", "\n<polygon"))
    check(path, damaged_texts(path.read_text(), COUNT, 2), path, format=given)


@pytest.mark.parametrize("place", ["time_frame", "object_id", "class_id", "height", "width"])
@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1.5", ""])
def test_numbers_of_mots(tmp_path, place, number):
    write_frames(tmp_path / "images" / "v", pattern="{:06}.png")
    values = {"time_frame": "0", "object_id": "1", "class_id": "1", "height": "48", "width": "72"} | {place: number}
    path = tmp_path / "v.txt"
    path.write_text(" ".join(values.values()) + " 06\n")
    assert not accepts(lambda: import_annotations(path, format="mots"), path)


@pytest.mark.parametrize("name", ["9" * 5000, "é" * 5000, "a\nb", "\x1b[31m", "\ud800"])
def test_names_of_coco(tmp_path, name):
    """Names of categories and videos may be anything; those of files must exist."""
    document = coco_document(scenes(("a",)), ("frame_id", "track_id"))
    write_frames(tmp_path / "a", pattern="{}.jpg")
    path = tmp_path / "annotations.json"
    for change in ({"categories": [{"id": 30, "name": name}]}, {"videos": [{"id": 7, "name": name}]}):
        path.write_text(json.dumps(document | change))
        assert accepts(lambda: import_annotations(path), path)
    document["images"][0]["file_name"] = name
    del document["images"][0]["frame_id"]
    path.write_text(json.dumps(document))
    assert not accepts(lambda: import_annotations(path), path.parent)


def test_cvat_nested_deeply(tmp_path):
    write_frames(tmp_path / "images" / "v", pattern="frame_{:06}.png")
    path = tmp_path / "v.xml"
    path.write_text("<annotations>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotations>")
    assert not accepts(lambda: import_annotations(path), path)


@pytest.mark.parametrize("given", [None, "mots"])
def test_mots(tmp_path, given):
    (video,) = mots_videos(("0000",))
    write_frames(tmp_path / "images" / "0000", pattern="{:06}.png")
    path = tmp_path / "0000.txt"
    path.write_text("\n".join(mots_lines(video, 0)) + "\n")
    check(path, damaged_texts(path.read_text(), COUNT, 3), path, format=given)


@pytest.mark.parametrize("given", ["id-png", "mots-png", "davis"])
@pytest.mark.parametrize("bits", [8, 16])
def test_pngs(tmp_path, given, bits):
    home = tmp_path / "Annotations" if given == "davis" else tmp_path
    (video,) = scenes(("a",))
    (home / "a").mkdir(parents=True)
    write_frames(tmp_path / "JPEGImages" / "a")
    for t in range(FRAMES):
        numbers = video.numbers(t)
        numbers[numbers > 0] += 1000 * (given == "mots-png")
        (home / "a" / f"{t:05}.png").write_bytes(png(numbers, bits=16 if given == "mots-png" else bits))
    path = home / "a" / "00001.png"
    check(path, damaged_bytes(path.read_bytes(), COUNT, 4), tmp_path, format=given)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (60_000, 60_000), (0, 0), (1, 2**24)])
def test_pngs_with_a_forged_size(tmp_path, size):
    """A file of some bytes may claim billions of pixels."""
    (tmp_path / "a").mkdir()
    write_frames(tmp_path / "JPEGImages" / "a", 1)
    data = png(scenes(("a",))[0].numbers(0))
    header = b"IHDR" + struct.pack(">II", *size) + data[24:29]
    path = tmp_path / "a" / "00000.png"
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
    assert not accepts(lambda: import_annotations(tmp_path, format="id-png"), path)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (120_000, 120_000)])
@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "mots"])
def test_sizes_of_other_images(tmp_path, form, size):
    """The size in a file is compared with the image before a mask of that size is made."""
    write_frames(tmp_path / "images" / "v", pattern="{:06}.png")
    names = {"cvat": "v.xml", "mots": "v.txt"}
    corners, path = [[1.0, 2.0], [20.0, 3.0], [9.0, 30.0]], tmp_path / names.get(form, "v.json")
    options: dict[str, Any] = {"format": form, "images": tmp_path / "images"}
    if form == "coco":
        document: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "v/000000.png", "height": size[0], "width": size[1]}]
        }
        document["categories"] = [{"id": 1, "name": "cat"}]
        one = {"image_id": 1, "category_id": 1, "track_id": 1, "segmentation": [[1, 2, 20, 3, 9, 30]]}
        document["annotations"] = [one]
        path.write_text(json.dumps(document))
    elif form == "labelme":
        document = json.loads(labelme([shape("cat", 1, corners)], "000000.png"))
        path = tmp_path / "v" / "000000.json"
        path.parent.mkdir()
        path.write_text(json.dumps(document | {"imageHeight": size[0], "imageWidth": size[1]}))
    elif form == "cvat":
        sizes = f"<original_size><width>{size[1]}</width><height>{size[0]}</height></original_size>"
        path.write_text(cvat([(1, "cat", [polygon(0, corners)])], sizes))
    else:
        (counts,) = rle.compress([[2**30, 2**30]], (2**16, 2**15))
        path.write_text(f"0 1 1 {2**16} {2**15} {counts}\n0 2 1 {2**16} {2**15} {counts}\n")
    source = tmp_path if form == "labelme" else path
    assert not accepts(lambda: import_annotations(source, **options), tmp_path)
