"""`VideoInstances`: attributes, selection, output formats and files."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from mdqe.errors import InputError
from mdqe.results import rle
from mdqe.results.instances import VideoInstances

SIZE = (24, 31)


def disc(y: float, x: float, radius: float = 5.0) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


@pytest.fixture
def masks() -> np.ndarray:
    """Three instances in four frames: one always visible, one in the last two frames, one never."""
    masks = np.zeros((3, 4, *SIZE), bool)
    for t in range(4):
        masks[0, t] = disc(10, 8 + 2 * t)
    masks[1, 2:] = disc(15, 20)
    return masks


@pytest.fixture
def result(masks) -> VideoInstances:
    return VideoInstances.from_masks(
        torch.tensor([0.9, 0.6, 0.4]),
        [1, 0, 1],
        np.array([7, 3, 12]),
        torch.from_numpy(masks),
        categories=("cat", "dog"),
        category_ids=(4, 25),
        fps=12.5,
    )


def window(ids, first, frames=2, *, score=0.5, size=SIZE) -> VideoInstances:
    masks = np.zeros((len(ids), frames, *size), bool)
    for i, track in enumerate(ids):
        masks[i, :, track % size[0], : first + 2] = True
    scores, labels = np.full(len(ids), score), np.zeros(len(ids), int)
    return VideoInstances.from_masks(scores, labels, ids, masks, first_frame=first, frames=frames, size=size)


def same(one: VideoInstances, other: VideoInstances) -> bool:
    arrays = ("scores", "labels", "track_ids", "masks", "boxes")
    plain = ("size", "categories", "category_ids", "fps", "first_frame")
    equal = all(np.array_equal(getattr(one, a), getattr(other, a), equal_nan=a == "boxes") for a in arrays)
    return equal and all(getattr(one, p) == getattr(other, p) for p in plain)


def test_fields_and_masks(result, masks):
    assert (len(result), result.num_frames, result.size) == (3, 4, SIZE)
    assert result.scores.dtype == np.float32
    assert result.labels.tolist() == [1, 0, 1]
    assert result.track_ids.tolist() == [7, 3, 12]
    assert np.array_equal(result.masks, masks)
    assert result.present.tolist() == masks.any(axis=(2, 3)).tolist()


def test_boxes_are_the_tight_boxes_of_the_masks(result, masks):
    computed = VideoInstances(result.scores, result.labels, result.track_ids, result.rles, SIZE).boxes
    assert np.array_equal(result.boxes, computed, equal_nan=True)
    assert result.boxes.shape == (3, 4, 4)
    for mask, box in zip(masks.reshape(-1, *SIZE), result.boxes.reshape(-1, 4), strict=True):
        y, x = np.nonzero(mask)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [np.nan] * 4
        assert np.array_equal(box, expected, equal_nan=True)


def test_only_the_requested_masks_are_decoded(result, masks, monkeypatch):
    decoded, decode = [], rle.decode
    monkeypatch.setattr(rle, "decode", lambda counts, size: decoded.append(len(counts)) or decode(counts, size))
    assert np.array_equal(result.mask(0, 3), masks[0, 3])
    assert not result.mask(2, 0).any()
    assert np.array_equal(result.frame_masks(2), masks[:, 2])
    assert decoded == [1, 2]


def test_selection(result):
    assert result[1].track_ids.tolist() == [3]
    assert result[-1].track_ids.tolist() == [12]
    assert result[:2].track_ids.tolist() == [7, 3]
    assert result[[2, 0]].track_ids.tolist() == [12, 7]
    assert result[result.labels == 1].scores.tolist() == pytest.approx([0.9, 0.4])
    assert len(result[[]]) == 0
    assert result.above(0.5).track_ids.tolist() == [7, 3]
    assert [one.track_ids[0] for one in result] == [7, 3, 12]
    assert np.array_equal(result[1].masks[0], result.masks[1])
    with pytest.raises(IndexError):
        result[3]


def test_no_instances():
    empty = VideoInstances.from_masks([], [], [], np.zeros((0, 5, *SIZE), bool), categories=("cat",))
    assert (len(empty), empty.masks.shape, empty.boxes.shape) == (0, (0, 5, *SIZE), (0, 5, 4))
    assert empty.to_ytvis(1) == []
    assert "0 in 5 frames" in repr(empty)
    assert len(VideoInstances.from_masks([], [], [], iter(()), frames=2, size=SIZE)) == 0
    with pytest.raises(ValueError, match="frames and size"):
        VideoInstances.from_masks([], [], [], iter(()))


def test_repr(result):
    lines = repr(result).splitlines()
    assert lines[0] == "VideoInstances: 3 in 4 frames of 31x24 at 12.5 fps"
    assert lines[1] == "  track 7  dog  0.90  frames 0-3, visible in 4"
    assert lines[2] == "  track 3  cat  0.60  frames 2-3, visible in 2"
    assert "never visible" in lines[3]
    many = result[np.zeros(40, int)]
    assert len(repr(many).splitlines()) == 14
    assert repr(many).endswith("28 more")


def test_youtube_vis_format(result, masks):
    """pycocotools decodes its masks."""
    rows = result.to_ytvis(9)
    assert [(r["video_id"], r["category_id"], r["track_id"]) for r in rows] == [(9, 25, 7), (9, 4, 3), (9, 25, 12)]
    assert [r["score"] for r in rows] == pytest.approx([0.9, 0.6, 0.4])
    for row, expected in zip(json.loads(json.dumps(rows)), masks, strict=True):
        for segmentation, mask in zip(row["segmentations"], expected, strict=True):
            assert (segmentation is None) == (not mask.any())
            assert segmentation is None or np.array_equal(coco.decode(segmentation), mask)


def test_category_ids_of_the_youtube_vis_format(result):
    assert [r["category_id"] for r in result.to_ytvis(1, category_ids=[10, 20])] == [20, 10, 20]
    assert [r["category_id"] for r in window([1, 2], 0).to_ytvis(1)] == [1, 1]
    with pytest.raises(ValueError, match="1 entries; labels go up to 1"):
        result.to_ytvis(1, category_ids=[10])


def test_save_and_load(result, tmp_path):
    path = tmp_path / "instances.json"
    result.save(path, settings={"score_threshold": 0.3})
    assert same(VideoInstances.load(path), result)
    document = json.loads(path.read_text())
    assert document["version"] == 1
    assert document["settings"] == {"score_threshold": 0.3}
    assert document["categories"] == [{"id": 4, "name": "cat"}, {"id": 25, "name": "dog"}]
    rows = [{k: v for k, v in row.items() if k != "category"} for row in document["results"]]
    assert rows == result.to_ytvis(1)
    assert [row["category"] for row in document["results"]] == ["dog", "cat", "dog"]
    assert [p.name for p in tmp_path.iterdir()] == ["instances.json"]


@pytest.mark.parametrize("names", [(), ("thing", "stuff")])
def test_save_and_load_without_ids(masks, tmp_path, names):
    result = VideoInstances.from_masks([0.5] * 3, [0, 1, 1], [1, 2, 3], masks, categories=names, first_frame=6)
    result.save(tmp_path / "x.json")
    loaded = VideoInstances.load(tmp_path / "x.json")
    assert loaded.labels.tolist() == [0, 1, 1]
    assert loaded.categories == names
    assert loaded.first_frame == 6
    assert loaded.fps is None


def test_a_failed_save_leaves_the_old_file(result, tmp_path):
    path = tmp_path / "instances.json"
    result.save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        result.save(path, settings=object())
    with pytest.raises(InputError, match="results"):
        result.save(path, results=[])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["instances.json"]
    with pytest.raises(OSError, match="missing"):
        result.save(tmp_path / "missing" / "instances.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), 'expected an object with "format"'),
        (lambda d: d.update(version=2), "version 2; this library reads version 1"),
        (lambda d: d.pop("video"), "no entry 'video'"),
        (lambda d: d["results"][0].pop("score"), "no entry 'score'"),
        (lambda d: d["results"][1].update(segmentations=[]), "result 1 has 0 masks"),
        (lambda d: d["results"][0]["segmentations"][0].update(size=[5, 5]), "cover"),
        (lambda d: d["results"][0]["segmentations"][0].update(size=[31, 24]), r"\[31, 24\]; the video is \[24, 31\]"),
        (lambda d: d["results"][0].update(category_id=5), "category id 5"),
        (lambda d: d.update(results={}) or d.update(results=3), "not iterable|no len"),
    ],
)
def test_damaged_files_are_rejected_in_one_line(result, tmp_path, change, message):
    path = tmp_path / "instances.json"
    result.save(path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as error:
        VideoInstances.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '"text"'])
def test_other_files_are_rejected(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"other\.json (does not hold saved instances|is not JSON)"):
        VideoInstances.load(path)
    with pytest.raises(FileNotFoundError):
        VideoInstances.load(tmp_path / "none.json")


def test_rows_of_tracks(result):
    """Any order, several rows per track, and a track that is not in the result."""
    rows = result.rows(track_ids=[3, 99, 7, 7], scores=[0.5, 0.4, 0.3, 0.2], labels=[0, 1, 0, 1])
    assert (rows.track_ids.tolist(), rows.labels.tolist()) == ([3, 99, 7, 7], [0, 1, 0, 1])
    assert np.array_equal(rows.masks[[0, 2, 3]], result.masks[[1, 0, 0]])
    assert np.array_equal(rows.boxes[[0, 2, 3]], result.boxes[[1, 0, 0]], equal_nan=True)
    assert rows.present.any(axis=1).tolist() == [True, False, True, True]
    assert len(result[[]].rows([7], [0.5], [0])) == 1
    assert rows.rows([7], [0.9], [1]).rles.tolist() == result.rles[:1].tolist()  # the first of several rows


def test_windows_are_joined_by_track_id():
    first, second = window([4, 9], 0, score=0.5), window([9, 2], 2, 3, score=0.7)
    joined = VideoInstances.concatenate([first, second])
    assert joined.track_ids.tolist() == [4, 9, 2]
    assert joined.scores.tolist() == [0.5, 0.7, 0.7]
    assert joined.num_frames == 5
    assert joined.present.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert np.array_equal(joined.masks[1], np.concatenate([first.masks[1], second.masks[0]]))
    assert np.array_equal(joined.boxes[1], np.concatenate([first.boxes[1], second.boxes[0]]))


def test_windows_are_joined_in_given_rows():
    chunks = [window([4, 9], 0), window([], 2), window([9, 2], 4)]
    final = VideoInstances.concatenate(chunks, scores=[0.9, 0.2, 0.1], labels=[0, 3, 1], track_ids=[9, 9, 4])
    assert (final.scores.tolist(), final.labels.tolist()) == ([0.9, 0.2, 0.1], [0, 3, 1])
    assert final.present.tolist() == [[1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "no windows"),
        ([window([1], 0), window([1], 3)], "starts at frame 3; the one before ends at 2"),
        ([window([1], 0), window([1], 2, size=(8, 9))], "31x24 and 9x8"),
    ],
)
def test_windows_that_do_not_fit_are_rejected(chunks, message):
    with pytest.raises(ValueError, match=message):
        VideoInstances.concatenate(chunks)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scores": [0.5]}, "scores have shape"),
        ({"labels": [0, 1, 2]}, "labels are 0..2; there are 2 categories"),
        ({"track_ids": [1, 2]}, "track_ids have shape"),
        ({"boxes": np.zeros((3, 4))}, "boxes have shape"),
        ({"rles": np.empty(3, object)}, "rles have shape"),
    ],
)
def test_fields_that_do_not_fit_are_rejected(result, fields, message):
    with pytest.raises(ValueError, match=message):
        replace(result, **fields)


def test_supervision_has_the_visible_instances(result, masks, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=dict))
    found = result.to_supervision(0)
    assert found["tracker_id"].tolist() == [7]
    assert found["class_id"].tolist() == [1]
    assert found["data"]["class_name"].tolist() == ["dog"]
    assert np.array_equal(found["mask"], masks[:1, 0])
    assert np.array_equal(found["xyxy"], result.boxes[:1, 0])
    assert result.to_supervision(2)["confidence"].tolist() == pytest.approx([0.9, 0.6])


def test_supervision_detections(result):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = result.to_supervision(3)
    assert isinstance(found, supervision.Detections)
    assert found.area.tolist() == result.masks[:2, 3].sum(axis=(1, 2)).tolist()


def test_a_missing_supervision_is_reported_with_its_install_command(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'mdqe\[viz\]'"):
        result.to_supervision(0)
