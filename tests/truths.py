"""Videos whose every mask is known, images of them on disk, and the comparison of what was imported with them.

Nothing of the package draws, encodes or decodes here but the synthetic scenes: run lengths are pycocotools'.
"""

import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mdqe.data.synthetic import draw_video

SIZE = (48, 72)
FRAMES = 4


class Truth(NamedTuple):
    """A video: its objects' masks (N, T, H, W), and by object the categories and ids."""

    name: str
    masks: np.ndarray
    categories: list[str]
    ids: list[int]

    def numbers(self, t: int) -> np.ndarray:
        """(H, W): the id of the object that each pixel of a frame shows, 0 where none."""
        found = np.zeros(SIZE, np.int64)
        for number, mask in zip(self.ids, self.masks[:, t], strict=True):
            found[mask] = number
        return found


def scenes(
    names: tuple[str, ...] = ("a", "b"), categories: tuple[str, ...] = ("object",), step: int = 1
) -> list[Truth]:
    """Synthetic scenes, in which objects hide one another; ids 2, 2 + step, …"""
    found = []
    for index, name in enumerate(names):
        masks = draw_video(11, index, frames=FRAMES, size=SIZE).masks
        masks = masks[masks.any((1, 2, 3))]
        kinds = [categories[i % len(categories)] for i in range(len(masks))]
        found.append(Truth(name, masks, kinds, [2 + step * i for i in range(len(masks))]))
    assert all(len(one.masks) > 1 for one in found)
    return found


def write_frames(folder: Path, frames: int = FRAMES, pattern: str = "{:05}.jpg", first: int = 0) -> list[str]:
    """Images of a video; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [pattern.format(first + t) for t in range(frames)]
    for t, name in enumerate(names):
        Image.new("RGB", SIZE[::-1], (40 * t, 90, 30)).save(folder / name)
    return names


def png(numbers: np.ndarray, *, bits: int = 8, palette: bool = False) -> bytes:
    """A PNG file of one channel, or of a palette, by the letter of its specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = numbers.shape
    rows = numbers.astype(">u2" if bits == 16 else "u1")
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, 0)
    colours = chunk(b"PLTE", bytes(range(256)) * 3) if palette else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + colours
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def compressed(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def filled(polygon: list[list[float]]) -> np.ndarray:
    """(H, W) bool: a polygon as COCO's tools fill it."""
    (rle,) = coco_mask.frPyObjects([[one for point in polygon for one in point]], *SIZE)
    return coco_mask.decode(rle).astype(bool)


def polygons(seed: int, objects: int = 3) -> list[list[list[list[float]] | None]]:
    """For each object, in each frame, the corners of a polygon that moves, or None where it is absent."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(objects):
        corners = random.uniform(4, 30, 2) + random.uniform(0, 30, (int(random.integers(3, 7)), 2)) * [1, 0.5]
        moved = [np.round(corners + 2.3 * t, 2).tolist() for t in range(FRAMES)]
        found.append([None if (t == i and i) else one for t, one in enumerate(moved)])
    return found


def masks_of(shapes: list[list[list[list[float]] | None]]) -> np.ndarray:
    """(N, T, H, W) of `polygons`."""
    empty = np.zeros(SIZE, bool)
    return np.array([[empty if one is None else filled(one) for one in track] for track in shapes])


def assert_equal(document: dict[str, Any], truths: list[Truth], files: dict[str, list[str]]) -> None:
    """Check that a document has exactly these videos: names, lengths, files, ids, categories, and every pixel."""
    categories = {one["id"]: one["name"] for one in document["categories"]}
    assert [one["name"] for one in document["videos"]] == [one.name for one in truths]
    for video, truth in zip(document["videos"], truths, strict=True):
        assert video["file_names"] == files[truth.name] and video["length"] == truth.masks.shape[1]
        assert (video["height"], video["width"]) == SIZE
        objects = [one for one in document["annotations"] if one["video_id"] == video["id"]]
        found = {(categories[one["category_id"]], one["track_id"]): one for one in objects}
        expected = dict(zip(zip(truth.categories, truth.ids, strict=True), truth.masks, strict=True))
        assert found.keys() == expected.keys() and len(objects) == len(found)
        for key, one in found.items():
            assert len(one["segmentations"]) == len(one["bboxes"]) == len(one["areas"]) == video["length"]
            for t, mask in enumerate(expected[key]):
                rle = one["segmentations"][t]
                assert (rle is None) == (not mask.any()) == (one["areas"][t] is None) == (one["bboxes"][t] is None)
                if rle is not None:
                    assert rle["size"] == list(SIZE)
                    assert np.array_equal(coco_mask.decode(rle), mask)
                    assert one["areas"][t] == mask.sum()
                    assert one["bboxes"][t] == coco_mask.toBbox(rle).tolist()
    assert len({one["id"] for one in document["annotations"]}) == len(document["annotations"])
    assert {one["video_id"] for one in document["annotations"]} <= {one["id"] for one in document["videos"]}


def assert_loads(document: dict[str, Any], images: Path, path: Path) -> None:
    """That training draws clips of it, with its masks, and evaluation gives its own objects full marks."""
    import json

    import torch

    from mdqe.data.ytvis import VideoClips
    from mdqe.evaluation import evaluate

    path.write_text(json.dumps(document))
    clips = VideoClips(path, images, clip_length=FRAMES)
    assert len(clips) == len({one["video_id"] for one in document["annotations"] if not one["iscrowd"]})
    _, targets = clips.clip(0, torch.Generator().manual_seed(0))
    first = document["videos"][0]["id"]
    objects = [one for one in document["annotations"] if one["video_id"] == first and not one["iscrowd"]]
    areas = [[area or 0 for area in one["areas"]] for one in objects]
    assert targets.masks.sum((2, 3)).tolist() == areas
    results = [
        {"video_id": one["video_id"], "category_id": one["category_id"], "score": 1.0}
        | {"segmentations": one["segmentations"]}
        for one in document["annotations"]
    ]
    assert evaluate(path, results)["AP"] > 0.999
