"""What pages show: any of the files that hold masks, and one clear line for those that do not."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from clips_to_show import FRAMES, SIZE, annotations, predicted_masks, results, truth_masks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdqe.pages.shown import PREDICTION, TRUTH, read_shown
from mdqe.pages.viewer import viewer
from mdqe.results.instances import VideoInstances

coco_mask = pytest.importorskip("pycocotools.mask")


def masks_of(track) -> list[np.ndarray | None]:
    """Decoded by pycocotools."""
    return [
        None if one is None else coco_mask.decode({"size": list(SIZE), "counts": one}).astype(bool)
        for one in track.masks
    ]


def equal(found, expected) -> bool:
    return all(
        (one is None and other is None) or np.array_equal(one, other)
        for one, other in zip(found, expected, strict=True)
    )


def saved_instances(path: Path, **notes) -> Path:
    masks = np.stack([np.zeros(SIZE, bool) if one is None else one for one in predicted_masks()])
    VideoInstances.from_masks(
        [0.75], [1], [6], masks[None], categories=("cat", "dog"), category_ids=(3, 9), fps=8.0
    ).save(path, **notes)
    return path


def test_results_beside_annotations(small_set):
    shown = read_shown(small_set[1], small_set[0], "a")
    assert (shown.name, shown.size, shown.length, shown.fps) == ("a", SIZE, FRAMES, None)
    prediction, truth = shown.sides
    assert (prediction.name, truth.name) == (PREDICTION, TRUTH)
    assert [(one.id, one.score, prediction.category(one)) for one in prediction.tracks] == [
        (3, 0.9, "fish"), (5, 0.2, "boat"), (4, 0.6, "boat"),
    ]  # fmt: skip
    assert [(one.id, truth.category(one)) for one in truth.tracks] == [(11, "fish"), (12, "boat")]
    assert equal(masks_of(prediction.tracks[0]), predicted_masks())
    assert equal(masks_of(truth.tracks[0]), truth_masks())


def test_annotations_alone(small_set):
    shown = read_shown(small_set[0], video="2")
    assert shown.name == "b" and [side.name for side in shown.sides] == [TRUTH]
    assert [one.id for one in shown.sides[0].tracks] == [13]


def test_results_alone_tell_their_size(save):
    rows = [one for one in results() if one["video_id"] == 1]
    rows.insert(0, rows[0] | {"segmentations": [None] * FRAMES, "score": 0.1, "track_id": 0})
    shown = read_shown(save("r.json", rows))
    assert (shown.name, shown.size, shown.length) == ("video 1", SIZE, FRAMES)
    assert [shown.sides[0].category(one) for one in shown.sides[0].tracks[:2]] == ["category 4"] * 2
    assert equal(masks_of(shown.sides[0].tracks[1]), predicted_masks())


def test_results_without_track_ids_are_numbered(save):
    rows = [{k: v for k, v in one.items() if k != "track_id"} for one in results()]
    shown = read_shown(save("r.json", rows), save("a.json", annotations()), "1")
    assert [one.id for one in shown.sides[0].tracks] == [0, 1, 2]


def test_instances_of_segment(tmp_path, save):
    notes = {"source": "clips/dog.mp4", "complete": False, "settings": {"every": 2, "start": None, "end": 3.5}}
    path = saved_instances(tmp_path / "instances.json", **notes)
    shown = read_shown(path)
    assert (shown.name, shown.size, shown.length, shown.fps) == ("dog.mp4", SIZE, FRAMES, 8.0)
    assert shown.partial and shown.selection == {"every": 2, "end": 3.5}
    (track,) = shown.sides[0].tracks
    assert (track.id, track.score, shown.sides[0].category(track)) == (6, 0.75, "dog")
    assert equal(masks_of(track), predicted_masks())

    both = read_shown(path, save("a.json", annotations()), "b")
    assert [side.name for side in both.sides] == [PREDICTION, TRUTH] and both.file_names[0] == "b/00000.png"
    assert equal(masks_of(both.sides[1].tracks[0]), truth_masks())


def test_an_empty_mask_is_none(save):
    document = annotations()
    document["annotations"][0]["segmentations"][0] = {"size": [*SIZE], "counts": [SIZE[0] * SIZE[1]]}
    assert read_shown(save("a.json", document), video="a").sides[0].tracks[0].masks[0] is None


def test_a_test_set_without_annotations_has_no_ground_truth(save):
    document = annotations()
    del document["annotations"]
    shown = read_shown(save("r.json", results()), save("a.json", document), "a")
    assert [side.name for side in shown.sides] == [PREDICTION]


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (None, "annotations.json contains 2 videos; choose one with --video: 1 (a), 2 (b)"),
        ("c", "annotations.json has no video 'c'; it has 1 (a), 2 (b)"),
    ],
)
def test_which_video(small_set, video, message):
    with pytest.raises(ValueError) as caught:
        read_shown(small_set[1], small_set[0], video)
    assert message in str(caught.value)


def test_a_name_goes_before_an_id(save):
    document = annotations()
    document["videos"][1]["file_names"] = [f"1/{t}.png" for t in range(FRAMES)]
    assert read_shown(save("a.json", document), video="1").sides[0].tracks[0].id == 13


def change_size(rows):
    rows[0]["segmentations"][0]["size"] = [5, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(video_id=7), 'result 0: "video_id" is 7, which is not in'),
        (lambda rows: rows[0]["segmentations"].pop(), '"segmentations" is a list of 3; its video has 4 frames'),
        (lambda rows: rows[0].update(score="high"), "result 0: \"score\" is 'high'; expected a finite number"),
        (lambda rows: rows[0].update(score=10**400), "expected a finite number"),
        (change_size, 'result 0: "segmentations" in frame 0: its size is [5, 5]; expected [40, 60]'),
        (lambda rows: rows[0]["segmentations"][2].update(counts="06"), '"segmentations" in frame 2: counts cover'),
        (lambda rows: rows.append(3), "result 4 is a number; expected an object"),
    ],
)  # fmt: skip
def test_damaged_results(save, change, message):
    rows = results()
    change(rows)
    path = save("r.json", rows)
    with pytest.raises(ValueError) as caught:
        read_shown(path, save("a.json", annotations()), "1")
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "an object that is neither instances.json of mdqe segment, nor a list of results, nor annotations"),
        (5, "a number that is neither"),
        ([], "contains no video"),
        ({"format": "other"}, 'expected an object with "format": "mdqe-instances"'),
        (
            [{"video_id": 1, "segmentations": [None]}],
            "no result of video 1 has an RLE; the size of the video is unknown",
        ),
        ([{"video_id": 1, "segmentations": [{"size": [0, 3]}]}], "without a size [height, width] in frame 0"),
        ([{"video_id": 1, "segmentations": 7}], '"segmentations" is a number; expected a list'),
    ],
)
def test_other_files(save, document, message):
    path = save("file.json", document)
    with pytest.raises(ValueError) as caught:
        read_shown(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_options_that_do_not_fit(tmp_path, small_set):
    path = saved_instances(tmp_path / "instances.json")
    with pytest.raises(ValueError, match="contains annotations; give results"):
        read_shown(small_set[0], small_set[0])
    with pytest.raises(ValueError, match="contains one video; --video is for results and annotations"):
        read_shown(path, video="3")
    document = annotations()
    document["videos"][0].update(height=41)
    document["annotations"] = []
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"has 4 frames of 60x40; video 1 of .*other.json has 4 frames of 60x41"):
        read_shown(path, other, "1")


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_shown_or_reported(tmp_path, data):
    """A file in which one field is replaced by anything gives a page, or an error that names a file."""
    instances = json.loads(saved_instances(tmp_path / "instances.json").read_text())
    documents = {"instances": instances, "results": results(), "annotations": annotations()}
    which = data.draw(st.sampled_from(["instances", "results", "annotations"]))
    document = documents[which]
    while True:
        keys = sorted(document) if isinstance(document, dict) else range(len(document))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(document[key], dict | list) or not document[key] or data.draw(st.booleans()):
            document[key] = data.draw(anything)
            break
        document = document[key]
    for name, one in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    source = "results" if which == "annotations" else which
    truth = tmp_path / "annotations.json" if which == "annotations" else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            viewer(read_shown(tmp_path / f"{source}.json", truth, None if source == "instances" else "1"))
    except ValueError as error:
        assert str(tmp_path) in str(error)
