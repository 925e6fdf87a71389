"""`mdqe evaluate`: results and models against annotations."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import annotated_sets as sets
import pytest

from mdqe.data.synthetic_files import write_set

DATA = Path(__file__).parents[1] / "evaluation" / "data"
CPU = ("--device", "cpu")


@pytest.fixture(scope="session")
def pets(tmp_path_factory) -> Path:
    """A set of three videos whose shapes are called cats and dogs, with the required fields alone."""
    folder = tmp_path_factory.mktemp("set") / "pets"
    list(write_set(folder, videos=3, frames=3, size=(48, 64), difficulty="easy"))
    document = json.loads((folder / "annotations.json").read_text())
    document["categories"] = [{"id": 5, "name": "dog"}, {"id": 6, "name": "cat"}]
    for one in document["annotations"]:
        one["category_id"] = 5 + one["category_id"] % 2
    return sets.save(folder, sets.minimal(document), "annotations.json").parent


def test_a_results_file(run, tmp_path):
    data, results = DATA / "vis_small_annotations.json", DATA / "vis_small_results.json"
    status, out, err = run("evaluate", results, "--data", data)
    assert status == 0 and err == ""
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:4] == ["objects", "AP", "AP50", "AP75"]
    expected = json.loads((DATA / "vis_small_expected.json").read_text())
    assert lines[1][0] == "all" and lines[1][2:5] == ["19.9", "38.1", "19.6"] and lines[1][7] == "-"
    assert [line[0] for line in lines[2:7]] == ["class0", "class1", "class2", "class3", "class4"]
    assert lines[8] == ["slightly", "occluded", "AP", "27.1", "AR", "34.4"]
    assert lines[-1][:2] == ["HOTA", "47.4"] and lines[-1][-6:-4] == ["identity", "switches"]
    assert lines[-1][-3:] == ["(score", "≥", "0.3)"]

    assert run("evaluate", results, "--data", data, "-o", tmp_path / "out")[:2] == (0, out)
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["AP"] == pytest.approx(expected["summary"]["AP"], abs=1e-12)
    with (tmp_path / "out" / "per_category.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["2", "5", "8", "11", "14"] and rows[0]["name"] == "class0"
    assert float(rows[0]["AP"]) == pytest.approx(expected["AP_per_category"]["2"], abs=1e-12)
    assert rows[0]["APl"] == "", "nothing to count"
    with (tmp_path / "out" / "per_video.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(i) for i in range(1, 15)] and 0 <= float(rows[0]["score"]) <= 1


def test_the_threshold_of_identities(run):
    data, results = DATA / "vis_small_annotations.json", DATA / "vis_small_results.json"
    _, low, _ = run("evaluate", results, "--data", data, "--score-threshold", "0")
    _, high, _ = run("evaluate", results, "--data", data, "--score-threshold", "0.9")
    assert low.splitlines()[:-1] == high.splitlines()[:-1] and low.splitlines()[-1] != high.splitlines()[-1]


def test_a_model(run, tiny_model, pets, tmp_path):
    out = tmp_path / "out"
    status, stdout, stderr = run("evaluate", "--model", tiny_model, "--data", pets, "-o", out, *CPU)
    assert status == 0, stderr
    assert "segmenting: 3 videos" in stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "numbers.json", "per_category.csv", "per_video.csv", "precision_recall.csv", "precision_recall.svg",
        "report.html", "results.json", "run.json", "videos",
    ]  # fmt: skip
    rows = json.loads((out / "results.json").read_text())
    assert {row["video_id"] for row in rows} == {1, 2, 3} and {row["category_id"] for row in rows} <= {5, 6}
    assert all(len(row["segmentations"]) == 3 for row in rows)
    # It is what the model finds: cats are the label 0, and the category 6 of this set.
    from mdqe import MDQE
    from mdqe.evaluation import evaluate as compare

    result = MDQE.from_pretrained(tiny_model).segment(pets / "JPEGImages" / "00001", multi_label=True)
    assert result.to_ytvis(2, [6, 5]) == [row for row in rows if row["video_id"] == 2]
    assert json.loads((out / "numbers.json").read_text())["AP50"] == compare(pets / "annotations.json", rows)["AP50"]

    # Again: nothing is run, the table is the same.
    before = {path: path.stat().st_mtime_ns for path in (out / "videos").iterdir()}
    status, again, stderr = run("evaluate", "--model", tiny_model, "--data", pets, "-o", out, *CPU)
    assert (status, again) == (0, stdout) and "3 of 3 videos are done already" in stderr
    assert {path: path.stat().st_mtime_ns for path in (out / "videos").iterdir()} == before

    # A missing video alone is run.
    (out / "videos" / "2.json").unlink()
    status, again, stderr = run("evaluate", "--model", tiny_model, "--data", pets, "-o", out, *CPU)
    assert (status, again) == (0, stdout) and "segmenting: 1 video" in stderr
    changed = {path.name for path, then in before.items() if path.stat().st_mtime_ns != then}
    assert changed == {"2.json"}


def test_an_interruption_loses_a_video_at_most(run, tiny_model, pets, tmp_path, monkeypatch):
    from mdqe.cli import evaluate_model

    whole, out = tmp_path / "whole", tmp_path / "out"
    _, expected, _ = run("evaluate", "--model", tiny_model, "--data", pets, "-o", whole, *CPU)
    done = evaluate_model.segment_video

    def interrupted(model, video, *rest):
        if video.id == 3:
            raise KeyboardInterrupt
        return done(model, video, *rest)

    monkeypatch.setattr(evaluate_model, "segment_video", interrupted)
    status, stdout, stderr = run("evaluate", "--model", tiny_model, "--data", pets, "-o", out, *CPU)
    assert status == 1 and stdout == "" and "interrupted" in stderr
    assert sorted(os.listdir(out / "videos")) == ["1.json", "2.json"]
    monkeypatch.undo()
    status, stdout, stderr = run("evaluate", "--model", tiny_model, "--data", pets, "-o", out, *CPU)
    assert (status, stdout) == (0, expected) and "2 of 3 videos are done already" in stderr
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_a_set_without_labels(run, tiny_model, pets, tmp_path):
    document = json.loads((pets / "annotations.json").read_text())
    del document["annotations"]
    (tmp_path / "valid.json").write_text(json.dumps(document))
    options = ["--images", pets / "JPEGImages", "-o", tmp_path / "out"]
    status, stdout, stderr = run("evaluate", "--model", tiny_model, "--data", tmp_path / "valid.json", *options, *CPU)
    assert status == 0 and stdout == f"{tmp_path / 'out' / 'results.json'}\n" and "no annotations" in stderr


def command(*arguments) -> list[str]:
    return [sys.executable, "-c", "import sys; from mdqe.cli import main; sys.exit(main())", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize("images", [False, True])
def test_workers_and_torchrun_give_the_same_results(tiny_model, pets, tmp_path, images):
    """Two worker processes, and two processes of torchrun, which communicate through gloo.

    Each has one thread, because other numbers of threads round sums differently.
    """

    def call(*arguments) -> subprocess.CompletedProcess:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)

    options, counts = ["evaluate", "--model", tiny_model, "--data", pets, *CPU], ("2 videos", "1 video")
    if images:
        document = json.loads((pets / "annotations.json").read_text()) | {"annotations": []}
        path = sets.save(tmp_path, sets.coco_document(document))
        options[4], counts = f"{path}@{pets / 'JPEGImages'}", ("5 images", "4 images")
    alone = call(*command(*options, "-o", tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    workers = call(*command(*options, "-o", tmp_path / "two", "--workers", 2))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    ranks = call(*torchrun, *command(*options, "-o", tmp_path / "three"))
    assert f"part 1 of 2: {counts[0]}" in ranks.stderr and f"part 2 of 2: {counts[1]}" in ranks.stderr
    for name, done in (("two", workers), ("three", ranks)):
        assert done.returncode == 0 and done.stdout == alone.stdout.replace("one", name), done.stderr
        assert (tmp_path / name / "results.json").read_bytes() == (tmp_path / "one" / "results.json").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_goes_on(run, tiny_model, tmp_path):
    many = tmp_path / "many"
    list(write_set(many, videos=20, frames=8, size=(48, 64), difficulty="easy"))
    document = json.loads((many / "annotations.json").read_text())
    document["categories"] = [{"id": 1 + i, "name": name} for i, name in enumerate(["cat", "dog", "a", "b", "c", "d"])]
    (many / "annotations.json").write_text(json.dumps(document))
    out = tmp_path / "out"
    options = ["evaluate", "--model", tiny_model, "--data", many, "-o", out, *CPU]
    process = subprocess.Popen(command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "videos" / "2.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = [path for path in (out / "videos").iterdir() if "partial" not in path.name]
    assert 2 <= len(kept) < 20
    for path in kept:
        json.loads(path.read_text())
    status, _, stderr = run(*options)
    assert status == 0 and f"{len(kept)} of 20 videos are done already" in stderr


def test_another_model_does_not_mix_in(run, tiny_model, pets, tmp_path):
    out = tmp_path / "out"
    run("evaluate", "--model", tiny_model, "--data", pets, "-o", out, *CPU)
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    status, _, err = run("evaluate", "--model", other, "--data", pets, "-o", out, *CPU)
    assert status == 2 and f"contains results with model '{tiny_model}', now it is '{other}'" in err


def test_new_weights_and_other_frames_do_not_mix_in(run, tiny_model, pets, tmp_path):
    """Under the same names: a model that was trained on, and the images of a set."""
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_model, tmp_path / "model")
    options = ["evaluate", "--model", model, "-o", tmp_path / "out", *CPU]
    data = pets / "annotations.json"
    assert run(*options, "--data", data)[0] == 0
    other = shutil.copytree(pets / "JPEGImages", tmp_path / ("a path is never cut " * 4) / "other")
    status, _, err = run(*options, "--data", f"{data}@{other}")
    assert status == 2 and f"contains results with images '{pets / 'JPEGImages'}', now it is '{other}'" in err
    shutil.rmtree(tmp_path / "out")
    assert run(*options, "--data", f"{data}@{other}")[0] == 0
    status, _, err = run(*options, "--data", data)
    assert status == 2 and f"contains results with images '{other}', now it is '{pets / 'JPEGImages'}'" in err
    shutil.rmtree(tmp_path / "out")
    assert run(*options, "--data", data)[0] == 0
    save_file({name: one * 1.01 for name, one in load_file(model / "model.safetensors").items()}, model / "new")
    (model / "new").replace(model / "model.safetensors")
    status, _, err = run(*options, "--data", data)
    assert status == 2 and "contains results with weights '" in err and "choose another folder or remove it" in err
    note = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(
        json.dumps({key: one for key, one in note.items() if key not in ("weights", "images")})
    )
    assert run(*options, "--data", data)[0] == 0, "a folder of an earlier version goes on"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--benchmark", "lvvis"], 'is not LV-VIS: no category has a "partition"'),
        (["--benchmark", "coco"], "contains videos; expected images; the benchmark is coco"),
        (["--benchmark", "coco", "--score-threshold", "sweep"], "several score thresholds are for ytvis, ovis, "),
    ],
)
def test_another_benchmark_is_reported_before_any_work(run, tiny_model, pets, tmp_path, options, message):
    status, out, err = run("evaluate", "--model", tiny_model, "--data", pets, "-o", tmp_path / "out", *options, *CPU)
    assert status == 2 and out == "" and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_options_are_compared_as_they_take_effect(run, tiny_model, pets, tmp_path):
    """An option that repeats the configuration changes nothing; a configuration that has changed does."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    options = ["evaluate", "--model", model, "--data", pets, "-o", tmp_path / "out", *CPU]
    first = run(*options)
    edge = config["test_shorter_edge"] or "native"
    again = run(*options, "--no-relink", "--size", edge)
    assert (first[0], again[0]) == (0, 0) and again[1] == first[1] and "3 of 3 videos are done already" in again[2]
    status, _, err = run(*options, "--relink")
    assert status == 2 and "contains results with relink False, now it is True" in err
    (model / "config.json").write_text(json.dumps(config | {"relink": True}))
    status, _, err = run(*options)
    assert status == 2 and "contains results with relink False, now it is True" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["categories"].pop(), "the model's categories (cat, dog, …) are not those of"),
        (lambda d: d["videos"][1].pop("file_names"), 'video 1 has no "length" and no "file_names"'),
        (lambda d: d["videos"][1]["file_names"].pop(), "a list of 3, its video has 2 frames"),
        (
            lambda d: d["videos"][1]["file_names"].__setitem__(0, "x.jpg"),
            "JPEGImages/x.jpg (--images names their folder)",
        ),
        (lambda d: d["annotations"][0].pop("category_id"), 'annotation 0 has no "category_id"'),
    ],
)
def test_problems_are_reported_before_any_work(run, tiny_model, pets, tmp_path, change, message):
    document = json.loads((pets / "annotations.json").read_text())
    change(document)
    if len(document["categories"]) == 1:
        document["annotations"] = []
    (tmp_path / "set.json").write_text(json.dumps(document))
    options = ["--images", pets / "JPEGImages", "-o", tmp_path / "out", *CPU]
    status, out, err = run("evaluate", "--model", tiny_model, "--data", tmp_path / "set.json", *options)
    assert status == 2 and out == "" and message in err and "Traceback" not in err
    assert not (tmp_path / "out" / "videos").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["r.json", "--data", "a.json", "--model", "m"], "give RESULTS or --model, not both"),
        (["--data", "a.json"], "running a model needs -o DIR"),
        (["--data", "a.json", "-o", "x", "--workers", "0"], "'0' is not a whole number of at least 1"),
        (["r.json", "--data", "none.json"], "no such file: none.json"),
        (["r.json"], "--data"),
    ],
)
def test_bad_options(run, options, message):
    status, out, err = run("evaluate", *options)
    assert status == 2 and out == "" and message in err and len(err.strip().splitlines()) == 1


def test_warnings_go_to_stderr(run, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    status, out, err = run("evaluate", tmp_path / "none.json", "--data", DATA / "vis_tiny_annotations.json")
    assert status == 0 and "none.json: no results" in err and err.count("\n") == 1 and "Traceback" not in out
