"""Results written in each format and read again by `mdqe import`: equal pixel by pixel where the format can hold it."""

import json
from pathlib import Path

import numpy as np
import pytest
import truths
from truths import FRAMES, SIZE, Truth, scenes, write_frames

from mdqe.annotations.burst import read_burst
from mdqe.annotations.problems import Problems
from mdqe.importing.formats import import_annotations
from mdqe.results.instances import VideoInstances
from mdqe.writing import DOCUMENTS, FORMATS
from mdqe.writing.formats import write_results

KINDS = ("car", "pedestrian")
IDS_ONLY = ("id-png", "davis")
MOTS = ("mots", "mots-png")


def videos(names: tuple[str, ...] = ("first", "second")) -> list[Truth]:
    """The ids are those that MOTS has."""
    found = scenes(names, categories=KINDS)
    return [
        one._replace(ids=[1000 * (1 + KINDS.index(kind)) + i for kind, i in zip(one.categories, one.ids, strict=True)])
        for one in found
    ]


def save(folder: Path, video: Truth, scores: list[float] | None = None) -> Path:
    """The file that `mdqe segment` writes for a video."""
    (folder / video.name).mkdir(parents=True, exist_ok=True)
    names = sorted(set(video.categories))
    result = VideoInstances.from_masks(
        scores or np.linspace(0.9, 0.5, len(video.ids)),
        [names.index(kind) for kind in video.categories],
        video.ids,
        video.masks,
        categories=names,
    )
    path = folder / video.name / "instances.json"
    result.save(path)
    return path


def read_again(output: Path, format: str, images: Path, notes: Problems | None = None) -> dict:
    source = output / "videos.json" if format in DOCUMENTS else output
    # Both formats with PNG images of numbers fit "id-png" and "mots-png"; all others are recognised.
    named = None if format not in ("id-png", "mots-png") else format
    return import_annotations(source, format=named, images=images, notes=notes)


def expected(video: Truth, format: str) -> Truth:
    """What the format holds of a video."""
    if format == "davis":  # indices are 1 to 254
        return video._replace(categories=["object"] * len(video.ids), ids=[*range(1, 1 + len(video.ids))])
    if format == "id-png":
        return video._replace(categories=["object"] * len(video.ids))
    return video


@pytest.mark.parametrize("format", [one for one in FORMATS if one != "ytvis"])
def test_results_of_videos(tmp_path, format):
    files = {}
    for video in videos():
        save(tmp_path / "results", video)
        names = write_frames(tmp_path / "images" / video.name)
        files[video.name] = [f"{video.name}/{name}" for name in names]
    output, notes = tmp_path / "written", Problems()
    output.mkdir()
    target = output / "videos.json" if format in DOCUMENTS else output
    assert write_results(tmp_path / "results", target, format=format, notes=notes) == 2
    found = "; ".join(notes.lines())
    assert ("objects are numbered from 1" in found) == (format == "davis"), found
    assert len(notes.found) == (format == "davis")
    truths.assert_equal(
        read_again(output, format, tmp_path / "images"), [expected(one, format) for one in videos()], files
    )


@pytest.mark.parametrize("format", ["davis", "labelme", "ytvis"])
def test_annotations_and_results_of_a_set(tmp_path, format):
    """What `mdqe import` reads is written, and read again; then as results that a data set names the frames of."""
    (video,) = videos(("clip",))
    save(tmp_path / "results", video)
    names = write_frames(tmp_path / "images" / "clip", pattern="frame {}.png")
    options = {"format": "coco", "images": tmp_path / "images"}
    write_results(tmp_path / "results" / "clip" / "instances.json", tmp_path / "frames.json", **options)
    document = import_annotations(tmp_path / "frames.json", images=tmp_path / "images")
    truths.assert_equal(document, [video], {"clip": [f"clip/{name}" for name in names]})
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    results = [
        {"score": 0.5, **{key: one[key] for key in ("video_id", "category_id", "track_id", "segmentations")}}
        for one in document["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    for source, data in (
        (tmp_path / "annotations.json", None),
        (tmp_path / "results.json", tmp_path / "annotations.json"),
    ):
        output = tmp_path / f"written {source.stem}"
        output.mkdir()
        target = output / "a.json" if format == "ytvis" else output
        write_results(source, target, format=format, data=data)
        if format == "ytvis":
            again = json.loads(target.read_text())
        else:
            again = read_again(output, format, tmp_path / "images")
        truths.assert_equal(again, [expected(video, format)], {"clip": [f"clip/{name}" for name in names]})


def overlapping() -> Truth:
    """Three objects in a row, each of which covers half of the next one; the last has a hole and a part of its own."""
    masks = np.zeros((3, FRAMES, *SIZE), bool)
    for i in range(3):
        masks[i, :, 10:30, 5 + 10 * i : 25 + 10 * i] = True
    masks[2, :, 18:22, 36:40] = False
    masks[2, :, 40:44, 50:60] = True
    masks[0, 2] = False
    return Truth("v", masks, ["car", "pedestrian", "car"], [1001, 2001, 1002])


@pytest.mark.parametrize("format", [*IDS_ONLY, *MOTS])
def test_the_better_score_wins(tmp_path, format):
    video = overlapping()
    save(tmp_path, video, [0.5, 0.9, 0.7])
    names = write_frames(tmp_path / "images" / "v")
    output, notes = tmp_path / "written", Problems()
    output.mkdir()
    write_results(tmp_path / "v" / "instances.json", output, format=format, notes=notes)
    middle = video.masks[1]
    cut = video._replace(masks=np.stack([video.masks[0] & ~middle, middle, video.masks[2] & ~middle]))
    if format == "davis":
        cut = cut._replace(ids=[3, 1, 2])  # in the order of the scores
    wanted = cut if format in MOTS else cut._replace(categories=["object"] * 3)
    truths.assert_equal(
        read_again(output, format, tmp_path / "images"), [wanted], {"v": [f"v/{name}" for name in names]}
    )
    lost = int(video.masks.sum() - cut.masks.sum())
    listed = f"the object with the better score ({FRAMES}, {lost:,} pixels): v/00000.jpg; v/00001.jpg"
    assert listed in "; ".join(notes.lines())


@pytest.mark.parametrize("format", ["burst", "coco", "cvat", "labelme"])
def test_overlaps_are_kept(tmp_path, format):
    save(tmp_path, overlapping(), [0.5, 0.9, 0.7])
    names = write_frames(tmp_path / "images" / "v")
    output, notes, again = tmp_path / "written", Problems(), Problems()
    output.mkdir()
    target = output / "videos.json" if format in DOCUMENTS else output
    write_results(tmp_path / "v" / "instances.json", target, format=format, notes=notes)
    document = read_again(output, format, tmp_path / "images", again)
    truths.assert_equal(document, [overlapping()], {"v": [f"v/{name}" for name in names]})
    assert notes.lines() == [] and list(again.found) == ["frames in which objects overlap, kept as they are"]


@pytest.mark.parametrize("format", ["cvat", "labelme"])
@pytest.mark.parametrize("tolerance", [0, 1.5])
def test_polygons(tmp_path, format, tolerance):
    """Without tolerance, only holes are lost, and in CVAT all parts but the largest."""
    video = overlapping()
    filled = video.masks.copy()
    filled[2, :, 18:22, 36:40] = True
    if format == "cvat":
        filled[2, :, 40:44] = False
    save(tmp_path, video)
    names = write_frames(tmp_path / "images" / "v")
    notes = Problems()
    options = {"format": format, "polygons": tolerance, "notes": notes}
    write_results(tmp_path / "v" / "instances.json", tmp_path / "written", **options)
    document = read_again(tmp_path / "written", format, tmp_path / "images")
    truths.assert_equal(document, [video._replace(masks=filled)], {"v": [f"v/{name}" for name in names]})
    lost = int((video.masks ^ filled).sum())
    assert f"polygons differ from the masks: holes, small details ({FRAMES}, {lost:,} pixels): v/0" in notes.lines()[0]


@pytest.mark.parametrize("format", ["cvat", "labelme"])
def test_polygons_with_a_tolerance_count_what_they_lose(tmp_path, format):
    video = videos(("v",))[0]
    save(tmp_path, video)
    write_frames(tmp_path / "images" / "v")
    counted = []
    for tolerance in (0, 1, 2):
        notes, output = Problems(), tmp_path / f"written {tolerance}"
        options = {"format": format, "polygons": tolerance, "notes": notes}
        write_results(tmp_path / "v" / "instances.json", output, **options)
        document = read_again(output, format, tmp_path / "images")
        found = np.zeros_like(video.masks)
        for one in document["annotations"]:
            for t, mask in enumerate(one["segmentations"]):
                if mask is not None:
                    found[video.ids.index(one["track_id"]), t] = truths.coco_mask.decode(mask)
        wrong = int((found ^ video.masks).sum())
        assert sum(notes.pixels.values()) == wrong
        counted.append(wrong)
    assert counted[0] < counted[1] < counted[2]
    if format == "labelme":
        assert counted[0] == 0


@pytest.mark.parametrize("split", ["", "test"])
def test_burst_reads_its_own_sequences(tmp_path, split):
    """Sequences of one name in two data sets keep their names, and the evaluator of BURST reads the file."""
    found = [one._replace(name=name) for one, name in zip(videos(), ("AVA/one", "HACS/one"), strict=True)]
    files, documents = {}, []
    for video in found:
        names = write_frames(tmp_path / "JPEGImages" / split / video.name, pattern="frame{:04}.jpg")
        files[video.name] = [f"{split}/{video.name}/{name}".lstrip("/") for name in names]
        path = save(tmp_path / "results", video)
        rows = json.loads(path.read_text())
        number = len(documents) + 1
        head = {"id": number, "height": SIZE[0], "width": SIZE[1], "length": FRAMES, "file_names": files[video.name]}
        documents.append((head, rows["categories"], [row | {"video_id": number} for row in rows["results"]]))
    data = {"videos": [one[0] for one in documents], "categories": documents[0][1]}
    (tmp_path / "set.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text(json.dumps([row for one in documents for row in one[2]]))
    path = tmp_path / "all_classes.json"
    write_results(tmp_path / "results.json", path, format="burst", data=tmp_path / "set.json")
    truths.assert_equal(import_annotations(path), found, files)
    assert read_burst(path).split == (split or "val")
