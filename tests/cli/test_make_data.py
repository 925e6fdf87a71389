"""`mdqe make-data`: a data set from a command line."""

import json

import pytest


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_make_a_set(run, tmp_path):
    options = ["--videos", 3, "--frames", 4, "--seed", 5, "--size", "96x64", "--difficulty", "hard"]
    status, out, err = run("make-data", "-o", tmp_path / "one", *options)
    assert status == 0 and out == f"{tmp_path / 'one' / 'annotations.json'}\n"
    assert "drawing" in err and "12 frames" in err
    document = json.loads((tmp_path / "one" / "annotations.json").read_text())
    assert [(video["height"], video["width"], video["length"]) for video in document["videos"]] == [(64, 96, 4)] * 3
    assert document["info"]["objects"] == [5, 10] and document["info"]["seed"] == 5

    assert run("make-data", "-o", tmp_path / "two", *options)[0] == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_occluded_videos_are_longer_and_compared_with_ovis(run, tmp_path):
    options = ["--videos", 1, "--size", "48x32", "--difficulty", "occluded"]
    status, _, err = run("make-data", "-o", tmp_path / "one", *options)
    document = json.loads((tmp_path / "one" / "annotations.json").read_text())
    assert status == 0 and document["videos"][0]["length"] == 48 and document["info"]["hiding"] == 1
    head, own, ovis = err.splitlines()[-3:]
    assert head.split()[:3] == ["not", "slightly", "severely"] and own.split()[0] == "one"
    assert ovis.split() == ["OVIS", "18.2", "55.5", "26.3", "80.2", "2.0", "-"]
    status, _, err = run("make-data", "-o", tmp_path / "two", *options, "--frames", 2)
    assert status == 0 and "drawing" in err and "2 frames" in err


def test_options_and_formats(run, tmp_path):
    options = ["--objects", "3", "--similarity", "0.25", "--occlusion", "0", "--images", "png", "--mp4"]
    status, _, _ = run("make-data", "-o", tmp_path / "set", "--videos", 1, "--frames", 2, "--size", "48x32", *options)
    assert status == 0
    info = json.loads((tmp_path / "set" / "annotations.json").read_text())["info"]
    assert (info["objects"], info["similarity"], info["occlusion"]) == ([3, 3], 0.25, 0)
    assert {name.rpartition(".")[2] for name in files(tmp_path / "set")} == {"json", "png", "mp4"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "192"], "'192' is not a width and a height"),
        (["--size", "10x10"], "size is 10x10"),
        (["--objects", "many"], "'many' is not a whole number of at least 1"),
        (["--objects", "6-2"], "objects is 6 to 2"),
        (["--similarity", "2"], "'2' is not a number from 0 to 1"),
        (["--videos", "0"], "'0' is not a whole number of at least 1"),
        (["--frames", "-1"], "'-1' is not a whole number of at least 1"),
        (["--seed", "-1"], "'-1' is not a whole number from 0"),
    ],
)
def test_bad_options(run, tmp_path, options, message):
    status, out, err = run("make-data", "-o", tmp_path / "set", *options)
    assert status == 2 and out == "" and message in err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use(run, tmp_path):
    (tmp_path / "kept").touch()
    status, _, err = run("make-data", "-o", tmp_path)
    assert status == 2 and "already exists, expected a new or an empty folder" in err


def test_an_interruption_leaves_nothing(run, tmp_path, monkeypatch):
    from mdqe.data import synthetic_files

    drawn = synthetic_files.draw_video

    def interrupted(*arguments, **options):
        if options.get("frames", 1) > 1 and arguments[1] == 1:
            raise KeyboardInterrupt
        return drawn(*arguments, **options)

    monkeypatch.setattr(synthetic_files, "draw_video", interrupted)
    status, out, err = run("make-data", "-o", tmp_path / "set", "--frames", 2, "--size", "48x32")
    assert status == 1 and out == "" and "interrupted" in err
    assert list(tmp_path.iterdir()) == []
