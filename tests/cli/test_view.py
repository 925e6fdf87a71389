"""`mdqe view`: a page of a video's masks."""

import json
import shutil

import pytest

from mdqe.data.synthetic_files import write_set


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A set of two videos."""
    folder = tmp_path_factory.mktemp("view") / "shapes"
    list(write_set(folder, videos=2, frames=3, size=(48, 64), difficulty="easy", mp4=True))
    return folder


def page_data(path):
    text = path.read_text()
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def test_annotations_with_frames(run, shapes, tmp_path):
    out = tmp_path / "page.html"
    options = ["--frames", shapes / "JPEGImages", "--video", "2", "-o", out, "--width", "32"]
    status, stdout, stderr = run("view", shapes / "annotations.json", *options)
    assert (status, stdout) == (0, f"{out}\n") and "3 frames" in stderr
    assert page_data(out)["pictures"] == 3 and out.read_text().count("data:image/jpeg;base64,") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_results_without_frames(run, shapes, tmp_path):
    document = json.loads((shapes / "annotations.json").read_text())
    rows = [
        {key: one[key] for key in ("video_id", "category_id", "segmentations")} | {"score": 0.5}
        for one in document["annotations"]
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    out = tmp_path / "page.html"
    options = ["--annotations", shapes / "annotations.json", "--video", "1", "-o", out, "--score-threshold", "0.4"]
    status, _, stderr = run("view", tmp_path / "r.json", *options)
    assert status == 0 and "masks are drawn on a plain background" in stderr
    data = page_data(out)
    assert [side["name"] for side in data["sides"]] == ["Prediction", "Ground truth"]
    assert (data["pictures"], data["threshold"]) == (0, 0.4)


def test_what_segment_wrote(run, tiny_model, make_clip, tmp_path):
    clip = make_clip("clip.mp4", frames=6)
    run("segment", clip, "-o", tmp_path / "out", "--model", tiny_model, "--every", "2", "--device", "cpu")
    found = tmp_path / "out" / "clip" / "instances.json"
    status, _, stderr = run("view", found, "--frames", clip, "-o", tmp_path / "page.html")
    assert status == 0, stderr
    data = page_data(tmp_path / "page.html")
    assert (data["name"], data["length"], data["pictures"], data["rate"]) == ("clip.mp4", 3, 3, 5.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json", "-o", "p.html"], "no such file: none.json"),
        (["SET", "-o", "p.html"], "contains 2 videos; choose one with --video: 1 (00000), 2 (00001)"),
        (["SET", "--video", "1", "--frames", "nowhere", "-o", "p.html"], "no such file: nowhere"),
        (["SET", "--video", "1", "-o", "no/folder/p.html"], "no/folder/p.html cannot be written"),
        (["SET", "--video", "1", "-o", "."], ". cannot be written"),
        (["SET", "--video", "1", "-o", "p.html", "--score-threshold", "2"], "'2' is not a number from 0 to 1"),
        (["SET", "--video", "1", "-o", "p.html", "--width", "0"], "'0' is not a whole number of at least 16"),
        (["SET"], "-o/--output"),
    ],
)
def test_bad_input(run, shapes, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("view", *[str(shapes / "annotations.json") if one == "SET" else one for one in arguments])
    lines = [line for line in err.splitlines() if not line.startswith(("reading", "no --frames"))]
    assert status == 2 and out == "" and len(lines) == 1 and message in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../secret.jpg", "00000/../../secret.jpg", "SECRET", "./../secret.jpg"])
def test_no_picture_from_outside_the_folder_of_the_images(run, shapes, tmp_path, name):
    """A page can be passed on, and annotations can come from somebody else."""
    images = shutil.copytree(shapes / "JPEGImages", tmp_path / "JPEGImages")
    secret = shutil.copy(images / "00000" / "00000.jpg", tmp_path / "secret.jpg")
    document = json.loads((shapes / "annotations.json").read_text())
    inside = document["videos"][0]["file_names"]
    for names, expected in ((inside, 0), ([str(secret) if name == "SECRET" else name, *inside[1:]], 2)):
        document["videos"][0]["file_names"] = names
        (tmp_path / "a.json").write_text(json.dumps(document))
        out = tmp_path / "page.html"
        status, _, err = run("view", tmp_path / "a.json", "--video", "1", "--frames", images, "-o", out)
        assert status == expected, err
        assert out.exists() == (status == 0)
        out.unlink(missing_ok=True)
    assert '"file_names" is' in err and "expected a path inside the folder of the images" in err
