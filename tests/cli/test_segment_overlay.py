"""The overlays of `mdqe segment`: times, sound and shape of the source, images, labels, and messages about them."""

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mdqe import MDQE
from mdqe.cli.segment import is_done
from mdqe.data.synthetic import draw_video
from mdqe.inference.postprocess import BENCHMARK_SCORE
from mdqe.results.instances import VideoInstances
from mdqe.video.overlay import draw_result


def write_source(path, times, last, *, pixel_aspect=Fraction(1), sound=None):
    """Write an MP4 file with PyAV alone: frames at these seconds, the last of which lasts `last` seconds."""
    scene = draw_video(0, frames=len(times), size=(64, 96)).frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        context = stream.codec_context
        context.time_base, context.max_b_frames, context.sample_aspect_ratio = Fraction(1, 1000), 0, pixel_aspect
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        packets = []
        for image, time in zip(scene, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.time_base, frame.pts = Fraction(1, 1000), round(time * 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = round(last * 1000)
        container.mux(packets)
        if audio is not None:
            samples = np.sin(np.arange(int(8000 * sound)) / 3).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def seconds_of(stream) -> float:
    return float(stream.duration * stream.time_base)


@pytest.mark.parametrize(
    ("options", "expected", "seconds"),
    [
        ((), [0, 0.04, 0.08, 2], 2.5),  # the last frame lasts half a second
        (("--every", "3"), [0, 2], 2.5),
        (("--end", "1.5"), [0, 0.04, 0.08], 1.5),  # the third frame is shown until the end of the range
        (("--start", "0.06"), [0, 1.92], 2.42),
    ],
)
def test_times_and_sound_after_a_gap(segment, tmp_path, options, expected, seconds):
    clip = write_source(tmp_path / "gap.mp4", [0, 0.04, 0.08, 2], 0.5, sound=4)
    status, _, stderr = segment(clip, "-o", tmp_path / "out", *options)
    assert status == 0, stderr
    with av.open(str(tmp_path / "out" / "gap" / "overlay.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert seconds_of(video) == pytest.approx(seconds, abs=2e-3)
        end = 1.5 if "--end" in options else 4 - 0.08 if "--start" in options else 4
        assert seconds_of(audio) == pytest.approx(end, abs=0.15), "all sound of the range is kept"
        assert [frame.time for frame in container.decode(video)] == pytest.approx(expected, abs=2e-3)


def test_sound_begins_with_the_first_selected_frame(segment, tmp_path):
    clip = write_source(tmp_path / "gap.mp4", [0, 2, 2.04], 0.04, sound=3)
    assert segment(clip, "-o", tmp_path / "out", "--start", "1")[0] == 0
    with av.open(str(tmp_path / "out" / "gap" / "overlay.mp4")) as container:
        assert seconds_of(container.streams.audio[0]) == pytest.approx(1, abs=0.15)
        assert seconds_of(container.streams.video[0]) == pytest.approx(0.08, abs=2e-3)


def test_the_shape_of_pixels_is_kept(segment, tmp_path):
    clip = write_source(tmp_path / "wide.mp4", [i / 25 for i in range(9)], 0.04, pixel_aspect=Fraction(2))
    assert segment(clip, "-o", tmp_path / "out")[0] == 0
    out = tmp_path / "out" / "wide"
    with av.open(str(out / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (96, 64)
        assert (stream.sample_aspect_ratio, stream.display_aspect_ratio) == (2, 3)
    assert VideoInstances.load(out / "instances.json").size == (64, 96), "masks are in stored pixels"
    width, height = Image.open(out / "sheet.png").size
    assert width == 4 * (192 + 8) + 8
    assert height == pytest.approx(3 * (64 + 8 + 16) + 8, abs=15)


def test_a_camera_keeps_the_shape_of_pixels(segment, tmp_path, monkeypatch):
    from mdqe.video import read
    from mdqe.video.read import LiveStream

    clip = write_source(tmp_path / "wide.mp4", [0, 0.04, 0.5], 1, pixel_aspect=Fraction(4, 3))
    monkeypatch.setattr(read, "camera", lambda number, **selection: LiveStream(str(clip), "camera 7", **selection))
    assert segment("7", "-o", tmp_path / "out")[0] == 0
    with av.open(str(tmp_path / "out" / "camera7" / "overlay.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert seconds_of(container.streams.video[0]) == pytest.approx(1.5, abs=2e-3)


@pytest.mark.skipif(os.name != "posix", reason="names that only POSIX allows")
def test_colons_in_relative_paths(segment, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path / "2026-11-28T12:30:00.mp4", [0, 0.04, 0.08], 0.04, sound=1)
    Image.fromarray(draw_video(0, frames=1, size=(64, 96)).frames[0]).save("a:1.png")
    Path("list:1").write_text("2026-11-28T12:30:00.mp4\na:1.png\n")
    status, _, stderr = segment("--videos-from", "list:1", "-o", "run:1")
    assert status == 0 and "audio" not in stderr, stderr
    assert sorted(os.listdir("run:1")) == ["2026-11-28T12_30_00", "a_1"]
    with av.open("file:run:1/2026-11-28T12_30_00/overlay.mp4") as container:
        assert len(container.streams.audio) == 1
    assert Path("run:1/a_1/overlay.png").is_file()
    results = "run:1/2026-11-28T12_30_00/instances.json"
    status, _, stderr = run("view", results, "--frames", "2026-11-28T12:30:00.mp4", "-o", "page:1.html")
    assert status == 0, stderr
    assert Path("page:1.html").is_file()


@pytest.mark.timeout(60)
@pytest.mark.skipif(os.name != "posix", reason="needs pipes of POSIX")
@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.png", "folder"])
def test_a_pipe_is_refused(segment, tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / ("folder/a.png" if name == "folder" else name))
    status, _, stderr = segment(tmp_path / name, "-o", tmp_path / "out")
    assert status == 2 and stderr.count("\n") == 1
    assert "is a device, a pipe or a socket; expected a file" in stderr


# Images


@pytest.mark.parametrize("source", ["a.png", "folder"])
def test_a_single_image_gives_an_image(segment, tiny_model, tmp_path, source):
    image = draw_video(0, frames=1, size=(65, 97)).frames[0]
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "folder" / "b.png"):
        Image.fromarray(image).save(path)
    command = (tmp_path / source, "-o", tmp_path / "out", "--skip-done")
    status, _, stderr = segment(*command)
    assert status == 0, stderr
    assert "frames per second" not in stderr and "padded" not in stderr
    out = tmp_path / "out" / source.removesuffix(".png")
    assert sorted(os.listdir(out)) == ["instances.json", "overlay.png", "sheet.png"]
    result = MDQE.from_pretrained(tiny_model).segment(image[None], score_threshold=0)
    assert len(result) > 0
    assert np.array_equal(np.asarray(Image.open(out / "overlay.png")), draw_result(image, result, 0))
    assert "1 of 1 videos are already done" in segment(*command)[2]
    (out / "overlay.png").unlink()
    assert "already done" not in segment(*command)[2]


def test_two_images_give_a_video(segment, tmp_path):
    for i, image in enumerate(draw_video(0, frames=2, size=(64, 96)).frames):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    assert segment(str(tmp_path / "*.png"), "-o", tmp_path / "out")[0] == 0
    (out,) = (tmp_path / "out").iterdir()
    assert sorted(os.listdir(out)) == ["instances.json", "overlay.mp4", "sheet.png"]


def test_an_image_without_an_overlay(segment, tmp_path):
    Image.fromarray(draw_video(0, frames=1, size=(64, 96)).frames[0]).save(tmp_path / "a.png")
    assert segment(tmp_path / "a.png", "-o", tmp_path / "out", "--no-video")[0] == 0
    assert sorted(os.listdir(tmp_path / "out" / "a")) == ["instances.json", "sheet.png"]


# Labels


def test_labels_can_be_left_out(segment, tiny_model, tmp_path):
    image = draw_video(0, frames=1, size=(64, 96)).frames[0]
    Image.fromarray(image).save(tmp_path / "a.png")
    assert segment(tmp_path / "a.png", "-o", tmp_path / "out", "--no-labels")[0] == 0
    result = MDQE.from_pretrained(tiny_model).segment(image[None], score_threshold=0)
    plain = draw_result(image, result, 0, labels=False)
    assert not np.array_equal(plain, draw_result(image, result, 0))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a" / "overlay.png")), plain)
    document = json.loads((tmp_path / "out" / "a" / "instances.json").read_text())
    wanted = {name: document[name] for name in ("source", "model", "settings")}
    assert is_done(tmp_path / "out" / "a", wanted, overlay=True)
    wanted["settings"] = {**wanted["settings"], "labels": True}
    assert not is_done(tmp_path / "out" / "a", wanted, overlay=True)


# Messages


def test_the_progress_and_the_table_show_the_same_speed(segment, make_clip, tmp_path):
    status, stdout, stderr = segment(make_clip(), "-o", tmp_path)
    assert status == 0
    shown = re.search(r"clip\.mp4: 9 frames in [\d.]+ s \(([\d.]+) frames/s\)", stderr)
    assert shown and stdout.splitlines()[1].split()[2] == shown[1]


def test_the_bundled_model_names_what_it_finds(run, make_clip, tmp_path):
    note = (
        "mdqe:tiny finds only 6 synthetic shapes (disc, triangle, square, star, cross, heart); "
        "for people, animals and vehicles: --model mdqe:r50_ovis_360"
    )
    clips = [make_clip(name, frames=2) for name in ("a.mp4", "b.mp4")]
    for model in ((), ("--model", "mdqe:tiny")):
        status, _, stderr = run("segment", *clips, "-o", tmp_path, "--device", "cpu", *model)
        assert status == 0
        assert stderr.splitlines().count(note) == 1


def test_another_model_has_no_such_note(segment, make_clip, tmp_path):
    assert "synthetic shapes" not in segment(make_clip(frames=2), "-o", tmp_path)[2]


def test_nothing_found_names_the_thresholds(run, tiny_model, make_clip, tmp_path):
    command = ("segment", make_clip(frames=3), "-o", tmp_path, "--model", tiny_model, "--device", "cpu")
    status, _, stderr = run(*command, "--score-threshold", "1")
    assert status == 0
    assert "no instance has a score of at least 1; --score-threshold sets this minimum" in stderr
    assert f"mdqe evaluate counts instances above {BENCHMARK_SCORE}" in stderr
    assert "no instance" not in run(*command, "--score-threshold", "0")[2]
