"""`mdqe segment` with many videos: lists, continued runs, several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdqe.cli import segment, segment_video
from mdqe.cli.segment import read_list
from mdqe.video.read import VideoError

CPU = ("--score-threshold", "0", "--device", "cpu", "--no-video")


def results(folder: Path) -> dict[str, list]:
    """The results, by the name of the folder of the video."""
    return {path.parent.name: json.loads(path.read_text())["results"] for path in folder.glob("*/instances.json")}


def rows(stdout: str) -> list[str]:
    """The first and the last column of the table."""
    return [f"{Path(line.split()[0]).name} {Path(line.split()[-1]).name}" for line in stdout.strip().splitlines()[1:]]


# Lists.


def test_a_list_names_videos(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa.mp4\r\n\n# of the second day\n  two words.mp4 \n\xff.mp4\n#b.mp4")
    assert read_list(path) == ["a.mp4", "two words.mp4", os.fsdecode(b"\xff.mp4")]


def test_videos_from_a_list_and_from_the_command_line(run, tiny_model, make_clip, tmp_path):
    a, b = make_clip("a.mp4", frames=3), make_clip("b.mp4", frames=2)
    (tmp_path / "list.txt").write_text(f"{b}\n")
    options = ("--videos-from", tmp_path / "list.txt", "-o", tmp_path / "out", "--model", tiny_model)
    status, stdout, stderr = run("segment", a, *options, *CPU)
    assert status == 0, stderr
    assert rows(stdout) == ["a.mp4 a", "b.mp4 b"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no videos: expected VIDEO or --videos-from LIST"),
        (("--videos-from", "empty.txt"), "empty.txt names no videos"),
        (("--videos-from", "none.txt"), "none.txt: No such file or directory"),
        (("--videos-from", "clip.mp4"), "clip.mp4 is not a list of videos: expected text with one video on each line"),
        (("--videos-from", "."), ".: Is a directory"),
        (
            ("--videos-from", "list.txt"),
            "no such file: none.mp4 (2 of 4 videos cannot be opened; --skip-bad continues without them)",
        ),
    ],
)
def test_bad_lists_are_one_line_and_status_2(run, tiny_model, make_clip, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    make_clip(frames=2)
    (tmp_path / "empty.txt").write_text("\n# nothing\n\n")
    (tmp_path / "list.txt").write_text("clip.mp4\nnone.mp4\nclip.mp4\nlist.txt\n")
    status, stdout, stderr = run("segment", *arguments, "-o", "out", "--model", tiny_model)
    assert (status, stdout, stderr) == (2, "", f"mdqe segment: error: {says}\n")
    assert not (tmp_path / "out").exists()


def test_videos_that_do_not_open_can_be_skipped(run, tiny_model, make_clip, tmp_path):
    a, b = make_clip("a.mp4", frames=2), make_clip("b.mp4", frames=2)
    command = ("segment", a, tmp_path / "none.mp4", b, "-o", tmp_path / "out", "--model", tiny_model, *CPU)
    status, stdout, stderr = run(*command, "--skip-bad")
    assert status == 2
    assert rows(stdout) == ["a.mp4 a", "none.mp4 failed", "b.mp4 b"]
    assert f"mdqe segment: error: no such file: {tmp_path / 'none.mp4'}" in stderr.splitlines()


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (VideoError("frame 3 is damaged"), 2, "error: frame 3 is damaged"),
        (MemoryError(), 2, "error: out of memory; a smaller --size needs less"),
        (KeyError("a defect"), 1, "this is a bug in mdqe"),
    ],
)
def test_an_error_of_any_kind_in_one_video_does_not_stop_the_others(
    run, tiny_model, make_clip, tmp_path, monkeypatch, error, status, says
):
    first_pass = segment_video._first_pass

    def failing(model, frames, *rest):
        if frames.name.endswith("a.mp4"):
            raise error
        return first_pass(model, frames, *rest)

    monkeypatch.setattr(segment_video, "_first_pass", failing)
    a, b = make_clip("a.mp4", frames=2), make_clip("b.mp4", frames=2)
    found, stdout, stderr = run("segment", a, b, "-o", tmp_path / "out", "--model", tiny_model, *CPU)
    assert found == status
    assert rows(stdout) == ["a.mp4 failed", "b.mp4 b"]
    assert f"mdqe segment: {says}" in stderr
    assert ("Traceback" in stderr) == isinstance(error, KeyError)


# Continued runs.


def test_videos_that_are_done_are_skipped(run, tiny_model, make_clip, tmp_path):
    videos = [make_clip(f"{name}.mp4", frames=3) for name in "abc"]
    out = tmp_path / "out"
    command = ["segment", *videos, "-o", out, "--model", tiny_model, "--device", "cpu", "--skip-done"]
    assert run(*command)[0] == 0
    expected = results(out)

    def again(*options) -> list[str]:
        """The videos that are segmented again."""
        status, stdout, stderr = run(*command, *options)
        assert status == 0 and results(out) == expected
        done = len(videos) - len(rows(stdout))
        assert (f"{done} of 3 videos are already done" in stderr) == (done > 0)
        return [row.split()[0] for row in rows(stdout)]

    assert again() == []
    shutil.rmtree(out / "a")
    (out / "b" / "sheet.png").unlink()
    assert again() == ["a.mp4", "b.mp4"]
    (out / "b" / "overlay.mp4").unlink()
    assert again("--no-video") == []
    assert again() == ["b.mp4"]
    document = json.loads((out / "a" / "instances.json").read_text())
    (out / "a" / "instances.json").write_text(json.dumps({**document, "complete": False}))
    (out / "c" / "instances.json").write_text(json.dumps(document)[:-9])
    assert again() == ["a.mp4", "c.mp4"]
    os.utime(out / "c" / "overlay.mp4", (0, 0))  # older than the results: the last run ended before it was drawn
    assert again() == ["c.mp4"]
    assert again("--sheet", "0,1") == ["a.mp4", "b.mp4", "c.mp4"]
    assert again("--sheet", "0,1") == []


@pytest.mark.parametrize(
    "option",
    [("--score-threshold", "0.9"), ("--size", "32"), ("--every", "2"), ("--end", "0.1"), ("--dtype", "bfloat16")],
)
def test_results_of_other_settings_are_replaced(run, tiny_model, make_clip, tmp_path, option):
    command = ["segment", make_clip(frames=4), "-o", tmp_path, "--model", tiny_model, *CPU]
    run(*command)
    before = json.loads((tmp_path / "clip" / "instances.json").read_text())["settings"]
    assert len(rows(run(*command, *option, "--skip-done")[1])) == 1
    assert json.loads((tmp_path / "clip" / "instances.json").read_text())["settings"] != before


def test_results_of_another_model_or_video_are_replaced(run, tiny_model, make_clip, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    command = ["segment", make_clip(frames=3), "-o", tmp_path / "out", *CPU, "--skip-done", "--model"]
    assert len(rows(run(*command, tiny_model)[1])) == 1
    assert run(*command, tiny_model)[1] == ""
    assert len(rows(run(*command, other)[1])) == 1
    (tmp_path / "day2").mkdir()
    command[1] = make_clip("day2/clip.mp4", frames=3)
    assert len(rows(run(*command, other)[1])) == 1


# Several processes.


COMMAND = "import sys; from mdqe.cli import main; sys.exit(main())"
SLOW_TABLE = """
import sys, time
from mdqe.cli import main, segment
summary = segment.summary
segment.summary = lambda outcomes: (time.sleep(3), summary(outcomes))[1]
sys.exit(main())
"""


def torchrun(*arguments: object, program: str = COMMAND, **options) -> subprocess.Popen:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [*start, sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
def test_two_processes_share_the_videos(tiny_model, make_clip, tmp_path):
    """One table has the videos that fail, do not open, or are done."""
    from PIL import Image

    videos = [make_clip(f"{name}.mp4", frames=3 + i) for i, name in enumerate("abcd")]
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i, size in enumerate([(64, 96), (40, 60)]):
        Image.new("RGB", size[::-1]).save(mixed / f"{i}.png")
    names = [videos[0], mixed, videos[1], tmp_path / "none.mp4", videos[2], videos[3]]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    options = ["segment", "--videos-from", tmp_path / "list.txt", "--model", tiny_model, *CPU, "--skip-bad"]
    threads = str(max(1, (os.cpu_count() or 1) // 2))  # as for each of two processes: equal rounding
    program = [sys.executable, "-c", COMMAND]
    single = subprocess.run(
        [*program, *map(str, options), "-o", str(tmp_path / "one")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads},
    )  # fmt: skip
    assert single.returncode == 2, single.stderr
    assert rows(single.stdout) == ["a.mp4 a", "folder failed", "b.mp4 b", "none.mp4 failed", "c.mp4 c", "d.mp4 d"]

    # The other process must not end before the table is printed: torchrun would stop this one.
    process = torchrun(*options, "-o", tmp_path / "two", program=SLOW_TABLE)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1, stderr  # the status of torchrun itself
    assert "failed (exitcode: 2)" in stderr, stderr
    assert rows(stdout) == rows(single.stdout)
    assert stderr.count("no such file") == 1
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert {name for name, found in results(tmp_path / "two").items() if found} == {"a", "b", "c", "d"}

    shutil.rmtree(tmp_path / "two" / "c")
    shutil.rmtree(mixed)
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in videos))
    process = torchrun(*options, "-o", tmp_path / "two", "--skip-done")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stderr.count("3 of 4 videos are already done") == 1
    assert rows(stdout) == ["c.mp4 c"]
    assert results(tmp_path / "two") == results(tmp_path / "one")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interruption_after_the_last_video_keeps_the_table(run, tiny_model, make_clip, tmp_path, monkeypatch):
    segment_all = segment._segment_all

    def interrupted(*arguments):
        found = segment_all(*arguments)
        os.kill(os.getpid(), signal.SIGINT)  # other processes may still be segmenting
        return found

    monkeypatch.setattr(segment, "_segment_all", interrupted)
    status, stdout, stderr = run("segment", make_clip(frames=2), "-o", tmp_path / "out", "--model", tiny_model, *CPU)
    assert (status, rows(stdout)) == (0, ["clip.mp4 clip"]), stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interruption_of_two_processes_keeps_their_results(tiny_model, make_clip, tmp_path):
    videos = [make_clip("short.mp4", frames=2), make_clip("long.mp4", frames=900), make_clip("never.mp4", frames=2)]
    names = [videos[0], videos[1], videos[0], videos[2]]  # the second process has the long one and the last one
    process = torchrun("segment", *names, "-o", tmp_path / "out", "--model", tiny_model, *CPU, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "short-2" / "sheet.png").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    while not (tmp_path / "out" / "long").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # until the first process waits
    os.kill(process.pid, signal.SIGINT)  # torchrun forwards the signal
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["long", "short", "short-2"]
    assert os.listdir(tmp_path / "out" / "long") == ["instances.partial.json"]
    assert rows(stdout) == ["short.mp4 short", "long.mp4 interrupted", "short.mp4 short-2"], stderr
    assert "1 of 4 videos were not started" in stderr
