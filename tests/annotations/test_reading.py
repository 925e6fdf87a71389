"""Bad input: one ValueError that names the file, the record and the field."""

import copy
import json
import warnings
from typing import Any

import pytest
from evaluation_cases import generate
from hypothesis import given, settings
from hypothesis import strategies as st

from mdqe.annotations.reading_ import occlusion_degree
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


def changed(document: Any, path: str, value: Any) -> None:
    """Set what "annotations.0.areas.1" names; `...` removes it."""
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in way:
        document = document[part]
    if value is ...:
        del document[last]
    else:
        document[last] = value


MASK = {"size": [4, 5], "counts": [6, 2, 12]}
OBJECT = small()[0]["annotations"][0]


def test_the_small_set_is_good():
    assert evaluate(*small())["AP"] == 0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("annotations", ..., 'the file has no "annotations"'),
        ("videos", {}, '"videos" is an object; expected a list'),
        ("videos.0", 5, "video 0 is a number; expected an object"),
        ("videos.0.height", 0, 'video 0: "height" is 0; expected a whole number from 1'),
        ("videos.0.length", "two", "video 0: \"length\" is 'two'; expected a whole number from 1"),
        ("videos.0.file_names", "a.jpg", 'video 0: "file_names" is no list of paths'),
        ("videos.0.id", True, 'video 0: "id" is True; expected a whole number'),
        ("categories.0.id", ..., 'category 0 has no "id"'),
        ("annotations.0.id", None, 'annotation 0: "id" is None; expected a whole number'),
        ("annotations.0.video_id", 2, 'annotation 0 (id 8): "video_id" is 2, which is not in videos'),
        ("annotations.0.category_id", 4, 'annotation 0 (id 8): "category_id" is 4, which is not in categories'),
        ("annotations.0.iscrowd", "no", "annotation 0 (id 8): \"iscrowd\" is 'no'; expected 0 or 1"),
        ("annotations.0.areas", ..., 'annotation 0 (id 8) has no "areas"'),
        ("annotations.0.areas", [2], 'annotation 0 (id 8): "areas" is a list of 1; its video has 2 frames'),
        ("annotations.0.areas.0", float("nan"), 'annotation 0 (id 8): "areas" is nan; expected pixels or null'),
        ("annotations.0.occlusion.0", "some", "annotation 0 (id 8): \"occlusion\" is 'some'; expected no_occlusion"),
        ("annotations.0.segmentations", [None], '"segmentations" is a list of 1; its video has 2 frames'),
        ("annotations.0.segmentations.0", [[0, 0, 1, 1, 2, 2]], 'in frame 0; expected {"size", "counts"} or null'),
        ("annotations.0.segmentations.0.size", [5, 4], '"segmentations" is [5, 4] large in frame 0; its video is [4,'),
        ("annotations.0.segmentations.0.size", 7, '"segmentations" is 7 large in frame 0'),
        ("annotations.0.segmentations.0.counts", [6, 2], '"segmentations" in frame 0: counts cover 8 pixels; size 4 x'),
        ("annotations.0.segmentations.0.counts", [-6, 26], '"segmentations" in frame 0: counts hold -6 to 26'),
        ("annotations.0.segmentations.0.counts", [6.5, 13.5], '"segmentations" in frame 0: counts are [6.5, 13.5]'),
        ("annotations.0.segmentations.0.counts", None, '"segmentations" is without counts in frame 0'),
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
        ("0.track_id", 1.5, 'result 0: "track_id" is 1.5; expected a whole number'),
        ("0.segmentations", ..., 'result 0 has no "segmentations"'),
        ("0.segmentations", [None] * 3, 'result 0: "segmentations" is a list of 3; its video has 2 frames'),
        ("0.segmentations.1.counts", ..., "in frame 1; expected"),
        ("0.segmentations.1.size", [8, 5], 'result 0: "segmentations" is [8, 5] large in frame 1; its video is [4, 5]'),
        ("0.segmentations.1.counts", "62", 'result 0: "segmentations" in frame 1: counts cover 8 pixels'),
    ],
)  # fmt: skip
def test_bad_results(tmp_path, path, value, message):
    annotations, results = small()
    changed(results, path, value)
    fails_alike(tmp_path, annotations, results, "results", message)


def fails_alike(tmp_path, annotations, results, which, message):
    """Loaded and as files; the error begins with the file that is wrong."""
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
        with pytest.raises(ValueError, match=r'1: "id" is \d, which another one has too'):
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
    """One field of a good set replaced by anything: it is read, or refused in one line."""
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
            assert str(error).startswith(("annotations: ", "results: ")) and "\n" not in str(error)


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
