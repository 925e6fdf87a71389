"""The reader of annotations and results: what it accepts, and errors that name the file, the record and the field."""

import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated_sets import minimal
from evaluation_cases import changed, generate
from hypothesis import given, settings
from hypothesis import strategies as st

from mdqe.annotations.files import find_data
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import IMAGES, VIDEOS, occlusion_degree, read_annotations
from mdqe.errors import InputError
from mdqe.evaluation import evaluate


def small() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One video of two frames, an object and a result."""
    mask = {"size": [4, 5], "counts": [6, 2, 12]}
    annotations = {
        "videos": [{"id": 1, "height": 4, "width": 5, "length": 2}],
        "categories": [{"id": 3, "name": "fish"}],
        "annotations": [
            {"id": 8, "video_id": 1, "category_id": 3, "iscrowd": 0, "areas": [2, None], "segmentations": [mask, None]}
        ],
    }
    annotations["annotations"][0]["occlusion"] = ["no_occlusion", None]
    return annotations, [{"video_id": 1, "category_id": 3, "score": 0.5, "segmentations": [None, dict(mask)]}]


OBJECT = small()[0]["annotations"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {
            "annotations.0.areas": ...,
            "videos.0.file_names": ["a", "b"],
            "videos.0.length": ...,
            "annotations.0.id": ...,
        },
        {"annotations.0.bboxes": [[0, 1, 2.5, 1], None], "annotations.0.iscrowd": None, "videos.0.file_names": []},
        {"annotations.0.segmentations.1": [], "0.segmentations.1": {}, "annotations.0.track_id": "anything"},
        {"annotations.0.segmentations.0": [[1, 2, 2, 2, 2, 4, 1, 4]], "annotations.0.segmentations.1": {}},
        {"0.segmentations.0": [[1, 2, 2, 2, 2, 4, 1, 4]], "0.segmentations.1": []},
        {"videos.0.id": np.int64(7), "annotations.0.video_id": 7.0, "0.video_id": np.float32(7), "0.track_id": 1.0},
        {
            "categories.0.id": 0,
            "annotations.0.category_id": np.uint8(0),
            "0.category_id": 0.0,
            "0.score": np.float32(1),
        },
        {"videos.0.height": 4.0, "annotations.0.areas.0": np.float64(2), "annotations.0.iscrowd": np.bool_(False)},
    ],
)
def test_what_is_accepted(changes):
    annotations, results = small()
    results[0]["segmentations"].reverse()
    for path, value in changes.items():
        changed(results if path[0] == "0" else annotations, path, value)
    assert evaluate(annotations, results)["AP"] == pytest.approx(1)


def test_missing_fields_change_no_metric():
    """Areas, boxes, lengths, ids: the areas of masks are those of pycocotools, with which the set was annotated."""
    data = Path(__file__).parents[1] / "evaluation" / "data"
    annotations = json.loads((data / "vis_small_annotations.json").read_text())
    coco = pytest.importorskip("pycocotools.mask")
    for one in annotations["annotations"]:
        rles = [
            coco.frPyObjects(mask, *mask["size"]) if mask and isinstance(mask["counts"], list) else mask
            for mask in one["segmentations"]
        ]
        one["areas"] = [rle and int(coco.area(rle)) for rle in rles]
    expected = evaluate(annotations, data / "vis_small_results.json")
    assert len({expected[key] for key in ("APs", "APm", "AP")}) == 3
    assert evaluate(minimal(annotations), data / "vis_small_results.json") == expected


def test_videos_and_images_are_recognised_by_the_document():
    videos = small()[0]
    read = read_annotations({**videos, "images": [{"id": 1}]})
    assert read.layout == VIDEOS and read.categories == {3: "fish"}
    image = {"id": 1, "height": 4, "width": 5, "file_name": '"videos": "categories": ['}
    read = read_annotations({"images": [image], "annotations": [], "categories": [{"id": 9}, {"id": 2, "name": "b"}]})
    assert read.layout == IMAGES and list(read.categories.items()) == [(2, "b"), (9, "9")]
    for document, message in ((videos, "contains videos; expected images"), ({"images": []}, 'has no "categories"')):
        with pytest.raises(InputError, match=message):
            read_annotations(document).expect(IMAGES)
    images = {"images": [image], "annotations": [], "categories": []}
    with pytest.raises(InputError, match="contains images; expected videos; evaluate_coco compares images"):
        evaluate(images, [], benchmark="ytvis")


def test_all_problems_in_one_error():
    annotations, results = small()
    first = annotations["annotations"][0]
    annotations["annotations"] += [{**first, "id": i, "category_id": 4} for i in range(4)]
    annotations["annotations"] += [{**first, "areas": [float("nan"), 0], "id": 9}, 5, {**first, "id": 8}]
    with pytest.raises(InputError) as caught:
        evaluate(annotations, results)
    assert str(caught.value).splitlines() == [
        "annotations has 7 problems:",
        '- invalid "category_id" (4): annotation 1 (id 0): 4, which is not in categories; annotation 2 (id 1): 4, '
        "which is not in categories; annotation 3 (id 2): 4, which is not in categories; …",
        '- invalid "areas" (1): annotation 5 (id 9): nan, expected pixels or null',
        "- records that are not objects (1): annotation 6",
        '- invalid "id" (1): annotation 7: 8, which is not unique',
    ]
    read = read_annotations(annotations, strict=False)
    assert len(list(read.objects)) == 1 and len(read.problems) == 7
    with pytest.raises(ValueError, match="results has 2 problems"):
        evaluate(small()[0], [{**results[0], "score": None}, {**results[0], "video_id": None}])
    problems = Problems()
    problems.add("images are missing", "a.jpg")
    with pytest.raises(InputError, match=r"^x\.json: images are missing \(1\): a\.jpg\?$"):
        problems.report("x.json", hint="?")


def test_where_a_data_set_is(tmp_path):
    path = tmp_path / "set@home" / "annotations.json"
    path.parent.mkdir()
    path.touch()
    assert find_data(path) == find_data(f"{path}@") == (path, path.parent, False)
    assert find_data(path.parent) == (path, path.parent, True)
    for images in (path.parent / "annotations" / "JPEGImages", path.parent / "JPEGImages"):
        images.mkdir(parents=True)
        assert find_data(str(path)) == (path, images, False) and find_data(path.parent) == (path, images, True)
    with pytest.raises(FileNotFoundError, match="no such file: ~no-such-user/a"):
        find_data("~no-such-user/a.json")
    assert find_data(f"{path}@{tmp_path}") == find_data(f"{path.parent}@{tmp_path}") == (path, tmp_path, True)
    with pytest.raises(FileNotFoundError, match=r"no such folder: nowhere, for the images of .*annotations.json"):
        find_data(f"{path}@nowhere").require_images()
    for name in (tmp_path, f"{tmp_path / 'other.json'}@{tmp_path}"):
        with pytest.raises(FileNotFoundError, match=r"no such file: .*\.json; expected FILE, FILE@IMAGES or a folder"):
            find_data(name)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("annotations", ..., 'the file has no "annotations"'),
        ("videos", {}, '"videos" is an object; expected a list'),
        ("videos.0", 5, "video 0 is a number; expected an object"),
        ("videos.0.height", 0, 'video 0: "height" is 0; expected a whole number from 1'),
        ("videos.0.length", ..., 'video 0 has no "length" and no "file_names"'),
        ("videos.0.file_names", ["a"], 'video 0: "file_names" is a list of 1; the video has 2 frames'),
        ("videos.0.length", "two", "video 0: \"length\" is 'two'; expected a whole number from 1"),
        ("videos.0.file_names", "a.jpg", 'video 0: "file_names" is \'a.jpg\'; expected a list of paths'),
        ("videos.0.id", True, 'video 0: "id" is True; expected a whole number'),
        ("categories.0.id", ..., 'category 0 has no "id"'),
        ("annotations.0.id", "8", "annotation 0: \"id\" is '8'; expected a whole number"),
        ("annotations.0.id", 8.5, 'annotation 0: "id" is 8.5; expected a whole number'),
        ("annotations.0.video_id", 2, 'annotation 0 (id 8): "video_id" is 2, which is not in videos'),
        ("annotations.0.category_id", 4, 'annotation 0 (id 8): "category_id" is 4, which is not in categories'),
        ("annotations.0.iscrowd", "no", "annotation 0 (id 8): \"iscrowd\" is 'no'; expected 0 or 1"),
        ("annotations.0.category_id", "3", "annotation 0 (id 8): \"category_id\" is '3'; expected a whole number"),
        ("annotations.0.bboxes", [[0, 0, 1, float("nan")], None], '"bboxes" is [0, 0, 1, nan]; expected [x, y, width'),
        ("annotations.0.bboxes", [[0, 0, -1, 1], None], '"bboxes" is [0, 0, -1, 1]; expected [x, y, width, height]'),
        ("annotations.0.bboxes", [None], 'annotation 0 (id 8): "bboxes" is a list of 1; its video has 2 frames'),
        ("annotations.0.areas", [2], 'annotation 0 (id 8): "areas" is a list of 1; its video has 2 frames'),
        ("annotations.0.areas.0", float("nan"), 'annotation 0 (id 8): "areas" is nan; expected pixels or null'),
        ("annotations.0.occlusion.0", "some", "annotation 0 (id 8): \"occlusion\" is 'some'; expected no_occlusion"),
        ("annotations.0.segmentations", [None], '"segmentations" is a list of 1; its video has 2 frames'),
        ("annotations.0.segmentations", ..., 'annotation 0 (id 8) has no "segmentations"'),
        ("annotations.0.segmentations.0", [[0, 0, 1, 1]], '"segmentations" in frame 0: a polygon is not a list'),
        ("annotations.0.segmentations.0.size", [5, 4], '"segmentations" in frame 0: its size is [5, 4]; expected'),
        ("annotations.0.segmentations.0.size", 7, '"segmentations" in frame 0: its size is 7; expected [4, 5]'),
        ("annotations.0.segmentations.0.counts", [6, 2], '"segmentations" in frame 0: counts cover 8 pixels; size 4 x'),
        ("annotations.0.segmentations.0.counts", [-6, 26], '"segmentations" in frame 0: counts hold -6 to 26'),
        ("annotations.0.segmentations.0.counts", [6.5, 13.5], '"segmentations" in frame 0: counts are [6.5, 13.5]'),
        ("annotations.0.segmentations.0.counts", None, '"segmentations" in frame 0: its counts are null'),
        ("annotations.0.segmentations.0.counts", "6\x072", "\"segmentations\" in frame 0: counts hold the character"),
    ],
)  # fmt: skip
def test_bad_annotations(tmp_path, path, value, message):
    annotations, results = small()
    changed(annotations, path, value)
    fails_alike(tmp_path, annotations, results, "annotations", message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("0", [], "result 0 is a list; expected an object"),
        ("0.video_id", 9, 'result 0: "video_id" is 9, which is not in annotations'),
        ("0.video_id", ..., 'result 0 has no "video_id"'),
        ("0.category_id", "fish", "result 0: \"category_id\" is 'fish'; expected a whole number"),
        ("0.score", float("nan"), 'result 0: "score" is nan; expected a finite number'),
        ("0.score", float("inf"), 'result 0: "score" is inf; expected a finite number'),
        ("0.score", "high", "result 0: \"score\" is 'high'; expected a finite number"),
        ("0.track_id", 2**63, 'result 0: "track_id" is 9223372036854775808; expected a whole number'),
        ("0.track_id", 1.5, 'result 0: "track_id" is 1.5; expected a whole number'),
        ("0.segmentations", ..., 'result 0 has no "segmentations"'),
        ("0.segmentations", [None] * 3, 'result 0: "segmentations" is a list of 3; its video has 2 frames'),
        ("0.segmentations.1.counts", ..., "in frame 1: {'size': [4, 5]} is neither an RLE nor polygons"),
        ("0.segmentations.1.size", [8, 5], 'result 0: "segmentations" in frame 1: its size is [8, 5]; expected [4, 5]'),
        ("0.segmentations.1.counts", "62", 'result 0: "segmentations" in frame 1: counts cover 8 pixels'),
    ],
)  # fmt: skip
def test_bad_results(tmp_path, path, value, message):
    annotations, results = small()
    changed(results, path, value)
    fails_alike(tmp_path, annotations, results, "results", message)


def fails_alike(tmp_path, annotations, results, which, message):
    """In memory and as files; the error begins with the name of the invalid file."""
    with pytest.raises(ValueError) as caught:
        evaluate(annotations, results)
    assert str(caught.value).startswith(f"{which}: ") and message in str(caught.value)
    paths = [tmp_path / "annotations.json", tmp_path / "results.json"]
    for path, document in zip(paths, (annotations, results), strict=True):
        path.write_text(json.dumps(document))
    with pytest.raises(ValueError) as caught:
        evaluate(*paths)
    assert str(caught.value).startswith(f"{tmp_path / which}.json: ")
    assert "\n" not in str(caught.value)


def test_duplicate_ids():
    for key in ("videos", "categories", "annotations"):
        annotations, results = small()
        annotations[key] *= 2
        with pytest.raises(ValueError, match=r'1: "id" is \d, which is not unique'):
            evaluate(annotations, results)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe\xfa", "is not JSON"),
        (b"{}", "an object; results are a list"),
        (b"null", "null; results are a list"),
    ],
)
def test_files_of_something_else(tmp_path, content, message):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(small()[0], tmp_path / "results.json")
    assert "results.json" in str(caught.value)
    with pytest.raises(ValueError, match="a list; annotations are an object"):
        evaluate([], [])
    with pytest.raises(FileNotFoundError):
        evaluate(tmp_path / "none.json", [])


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_a_value_error(data):
    """A set in which one field is replaced by anything is read, or rejected with an error that names the file."""
    annotations, results = small()
    document: Any = data.draw(st.sampled_from([annotations, results]))
    while True:
        keys = sorted(document) if isinstance(document, dict) else range(len(document))
        key = data.draw(st.sampled_from(list(keys)))
        inner = document[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            document[key] = data.draw(anything)
            break
        document = inner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            evaluate(annotations, results)
        except ValueError as error:
            assert str(error).startswith(("annotations: ", "results: ", "annotations has ", "results has "))


def test_the_degree_is_the_mean_of_the_upper_half():
    no, slight, severe = "no_occlusion", "slight_occlusion", "severe_occlusion"
    assert occlusion_degree([no, slight, severe, None]) == 0.5  # two of three: the half is rounded up
    assert occlusion_degree([slight, no, None, None]) == 0.25
    assert occlusion_degree([severe, severe, no, no]) == 0.75
    assert occlusion_degree([None, None]) == 0


def test_what_was_given_stays():
    annotations, results = generate(4)
    before = copy.deepcopy((annotations, results))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        evaluate(annotations, results)
    assert (annotations, results) == before


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", "", "a\0.jpg"])
def test_images_outside_their_folder_are_rejected(name):
    annotations = small()[0]
    video = annotations["videos"][0]
    video["file_names"] = [name] * video["length"]
    with pytest.raises(InputError, match=r'"file_names" is .*; expected a path inside the folder of the images'):
        read_annotations(annotations)
    image = {"id": 1, "height": 4, "width": 5, "file_name": name}
    with pytest.raises(InputError, match=r'"file_name" is .*; expected a path inside the folder of the images'):
        read_annotations({"images": [image], "annotations": [], "categories": []})


def test_dots_in_names_of_images():
    for name in ("..a.jpg", "a..b/c.jpg", "./a.jpg", "a:b.jpg" if os.name == "posix" else "a.jpg"):
        image = {"id": 1, "height": 4, "width": 5, "file_name": name}
        assert read_annotations({"images": [image], "annotations": [], "categories": []}).videos[1].file_names == [name]
