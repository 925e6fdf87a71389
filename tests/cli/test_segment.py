"""`mdqe segment` from the command line to its files."""

import json
import os
import signal
import subprocess
import sys
import threading

import av
import numpy as np
import pytest
from PIL import Image
from small_models import moving_squares, small_model

from mdqe import MDQE
from mdqe.cli.segment_video import Job, _drawn, segment_video
from mdqe.data.synthetic import draw_video
from mdqe.inference.views import FrameView
from mdqe.results.instances import VideoInstances
from mdqe.video.frames import read_ahead
from mdqe.video.overlay import draw_queries, draw_result
from mdqe.video.read import open_frames


def partials(folder) -> list[str]:
    return [path.name for path in folder.rglob("*partial*")]


def test_results_overlay_and_contact_sheet(segment, tiny_model, make_clip, tmp_path):
    clip, out = make_clip(), tmp_path / "out"
    status, stdout, stderr = segment(clip, "-o", out)
    assert status == 0, stderr
    assert sorted(os.listdir(out / "clip")) == ["instances.json", "overlay.mp4", "sheet.png"]

    document = json.loads((out / "clip" / "instances.json").read_text())
    assert document["complete"] is True
    assert document["source"] == str(clip)
    assert document["model"] == str(tiny_model)
    assert document["settings"]["score_threshold"] == 0
    assert document["settings"]["shorter_edge"] == 64 and document["settings"]["relink"] is False
    assert document["settings"]["device"] == "cpu"
    assert document["categories"] == [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    assert document["video"]["fps"] == 10
    for row in document["results"]:
        assert {"video_id", "category_id", "category", "score", "track_id", "segmentations"} == row.keys()
        assert row["category"] == {3: "cat", 9: "dog"}[row["category_id"]]
        assert len(row["segmentations"]) == 9
    found = VideoInstances.load(out / "clip" / "instances.json")
    expected = MDQE.from_pretrained(tiny_model).segment(clip, score_threshold=0)
    assert len(found) > 0
    assert (found.num_frames, found.size) == (9, (64, 96))
    assert found.scores == pytest.approx(expected.scores)
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.track_ids.tolist() == expected.track_ids.tolist()
    assert np.array_equal(found.masks, expected.masks)

    frames, drawn = list(open_frames(clip)), list(open_frames(out / "clip" / "overlay.mp4"))
    assert len(drawn) == 9
    assert np.abs(np.stack(frames).astype(int) - np.stack(drawn)).mean() > 2
    assert Image.open(out / "clip" / "sheet.png").size[0] > 96

    header, row = stdout.strip().splitlines()
    assert header.split() == ["video", "frames", "frames/s", "instances", "results"]
    assert row.split()[:2] == [str(clip), "9"]
    assert row.endswith(str(out / "clip"))
    assert f"{clip}: 9 frames in " in stderr and "frames/s" in stderr
    assert "mdqe-read-ahead" not in [thread.name for thread in threading.enumerate()]


def test_frames_are_selected(segment, make_clip, tmp_path):
    clip = make_clip(frames=20)
    choice = ("--every", "2", "--start", "0.5", "--end", "1.5", "--size", "native", "--relink")
    status, _, stderr = segment(clip, "-o", tmp_path, *choice)
    assert status == 0, stderr
    document = json.loads((tmp_path / "clip" / "instances.json").read_text())
    assert document["video"]["length"] == 5
    assert document["video"]["fps"] == 5
    assert document["settings"]["shorter_edge"] is None and document["settings"]["relink"] is True
    with av.open(str(tmp_path / "clip" / "overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=1e-3)


def test_without_a_video_there_is_still_a_contact_sheet(segment, make_clip, tmp_path):
    options = ("--no-video", "--sheet", "2,7,99")
    status, _, stderr = segment(make_clip(), "-o", tmp_path, *options)
    assert status == 0
    assert "not on the contact sheet: 99; frames are 0 to 8" in stderr
    assert sorted(os.listdir(tmp_path / "clip")) == ["instances.json", "sheet.png"]
    assert Image.open(tmp_path / "clip" / "sheet.png").size[0] == 2 * (96 + 8) + 8


def test_queries_and_activation_are_drawn(segment, make_clip, tmp_path):
    clip = make_clip(frames=7)
    drawn = {}
    for what in ("", "queries", "activation", "queries,activation"):
        out = tmp_path / (what or "plain")
        show = ("--show", what) if what else ()
        status, _, stderr = segment(clip, "-o", out, *show)
        assert status == 0, stderr
        drawn[what] = np.stack(list(open_frames(out / "clip" / "overlay.mp4"))).astype(int)
    for one, other in [("", "queries"), ("", "activation"), ("queries", "activation"), ("queries,activation", "")]:
        difference = np.abs(drawn[one] - drawn[other]).mean(axis=(1, 2, 3))
        assert (difference > 1).all()


def test_queries_have_the_colors_of_the_new_ids(monkeypatch, tmp_path):
    """With `relink`, the ids of the queries are those of masks in the frame."""
    drawn, plain = [], draw_queries

    def draw(image, points, track_ids):
        drawn.append(set(track_ids.tolist()) - {-1})
        return plain(image, points, track_ids)

    monkeypatch.setattr("mdqe.cli.segment_video.overlay.draw_queries", draw)
    model, frames = small_model(relink=True, window_length=5), open_frames(moving_squares(9, (60, 90)).numpy())
    outcome = segment_video(model, frames, tmp_path, Job(0.0, show=("queries",), overlay=True))
    assert outcome.status == 0
    result = VideoInstances.load(tmp_path / "instances.json")
    shown = [set(result.track_ids[result.present[:, frame]].tolist()) for frame in range(9)]
    assert len(drawn) == 9 and all(drawn) and all(one <= other for one, other in zip(drawn, shown, strict=True))


def test_labels_are_drawn_over_queries():
    mask = np.zeros((1, 1, 60, 90), bool)
    mask[..., 20:50, 5:60] = True
    result = VideoInstances.from_masks([0.9], [0], [4], mask, categories=("dog",))
    image = np.full((60, 90, 3), 90, np.uint8)
    y, x = np.mgrid[0.05:0.95:12j, 0.05:0.95:12j]
    view = FrameView(0, np.stack([x, y], -1).reshape(-1, 2), np.full(144, 4), np.zeros((8, 12), np.uint8))
    ((_, frame),) = _drawn(open_frames(image[None]), result, Job(show=("queries",)), [view], [0])
    drawn = frame.image
    without = draw_result(image, result, 0)
    label = (without != draw_result(image, result, 0, labels=False)).any(axis=2)
    assert np.array_equal(drawn[label], without[label])
    assert (drawn[~label] != without[~label]).any()


def test_a_folder_of_images_and_several_videos(segment, make_clip, tmp_path):
    folder = tmp_path / "pictures.v2"
    folder.mkdir()
    for i, image in enumerate(draw_video(0, frames=5, size=(65, 97)).frames):
        Image.fromarray(image).save(folder / f"{i}.png")
    (tmp_path / "a").mkdir()
    first, second = make_clip("a/x.mp4"), make_clip("x.mp4", size=(65, 97))
    out = tmp_path / "out"
    status, stdout, stderr = segment(first, folder, second, "-o", out)
    assert status == 0, stderr
    assert sorted(os.listdir(out)) == ["pictures.v2", "x", "x-2"]
    assert len(stdout.strip().splitlines()) == 4
    assert "the overlay plays at 10 frames per second" in stderr
    assert "the video is padded from 97x65 to 98x66" in stderr
    assert open_frames(out / "x-2" / "overlay.mp4").size == (66, 98)


def test_audio_is_kept(segment, make_clip, tmp_path):
    from mdqe.video.write import VideoWriter

    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = (8000 * np.sin(np.arange(8000) / 3)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = tmp_path / "loud.mp4"
    with VideoWriter(clip, 10, audio_from=sound) as writer:
        for image in draw_video(0, frames=9, size=(64, 96)).frames:
            writer.write(image)
    assert segment(clip, "-o", tmp_path)[0] == 0
    with av.open(str(tmp_path / "loud" / "overlay.mp4")) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == "aac"
        assert sum(frame.samples for frame in container.decode(stream)) / stream.rate == pytest.approx(0.9, abs=0.2)


def test_a_camera_is_drawn_from_a_recording(segment, make_clip, tmp_path, monkeypatch):
    from mdqe.video import read
    from mdqe.video.read import LiveStream

    clip = make_clip(size=(65, 97))
    monkeypatch.setattr(read, "camera", lambda number, **selection: LiveStream(str(clip), "camera 7", **selection))
    status, stdout, stderr = segment("7", "-o", tmp_path)
    assert status == 0, stderr
    assert sorted(os.listdir(tmp_path / "camera7")) == ["instances.json", "overlay.mp4", "sheet.png"]
    assert VideoInstances.load(tmp_path / "camera7" / "instances.json").size == (66, 98)  # the padded size of the file
    assert len(list(open_frames(tmp_path / "camera7" / "overlay.mp4"))) == 9
    assert "camera 7" in stdout


# Bad input: one line and status 2.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("none.mp4", "-o", "out"), "no such file: none.mp4"),
        (("*.avi", "-o", "out"), "no file matches *.avi"),
        (("", "-o", "out"), "video is '', expected a path"),
        (("text.mp4", "-o", "out"), "text.mp4 is not a video"),
        (("text.txt", "-o", "out"), "text.txt is not a video"),
        (("bare.mkv", "-o", "out"), "bare.mkv holds no frames"),
        (("empty", "-o", "out"), "folder empty holds no images"),
        (("clip.mp4", "-o", "text.mp4"), "text.mp4: cannot write there"),
        (("clip.mp4", "-o", "text.mp4/out"), "cannot write there"),
        (("clip.mp4", "-o", "out", "--model", "./none"), "no such folder: ./none"),
        (("clip.mp4", "-o", "out", "--model", ""), "'' is not a model"),
        (("clip.mp4", "-o", "out", "--model", "mdqe:none"), "no bundled model 'mdqe:none'"),
        (("clip.mp4", "-o", "out", "--model", "other"), "is the config of another model: model_type is 'detr'"),
        (("clip.mp4", "-o", "out", "--device", "cuda"), "finds no CUDA device"),
        (("clip.mp4", "-o", "out", "--device", "tpu9"), "device is 'tpu9'"),
        (("clip.mp4", "-o", "out", "--score-threshold", "1.5"), "'1.5' is not a number from 0 to 1"),
        (("clip.mp4", "-o", "out", "--score-threshold", "nan"), "'nan' is not a number from 0 to 1"),
        (("clip.mp4", "-o", "out", "--score-threshold", "high"), "'high' is not a number"),
        (("clip.mp4", "-o", "out", "--every", "0"), "'0' is not a whole number of at least 1"),
        (("clip.mp4", "-o", "out", "--start", "-1"), "'-1' is not a number from 0"),
        (("clip.mp4", "-o", "out", "--start", "2", "--end", "1"), "end is 1"),
        (("clip.mp4", "-o", "out", "--start", "60"), "no frames in the time range"),
        (("clip.mp4", "-o", "out", "--size", "big"), "'big' is not a whole number from 1 to 100000 or \"native\""),
        (("clip.mp4", "-o", "out", "--dtype", "int8"), "invalid choice"),
        (("clip.mp4", "-o", "out", "--show", "boxes"), "'boxes' is not one of queries, activation"),
        (("clip.mp4", "-o", "out", "--sheet", "1,b"), "'b' is not a whole number of at least 0"),
        (("clip.mp4",), "-o/--output"),
        (("mixed", "-o", "out"), "frame 1 of folder mixed is 60x40; the frames before it are 96x64"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, tiny_model, make_clip, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    make_clip()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "text.txt").write_text("no video")
    with av.open(str(tmp_path / "bare.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "detr"}')
    (tmp_path / "mixed").mkdir()
    for i, size in enumerate([(64, 96), (40, 60)]):
        Image.new("RGB", size[::-1]).save(tmp_path / "mixed" / f"{i}.png")
    model = () if "--model" in arguments else ("--model", tiny_model)
    status, _, stderr = run("segment", *arguments, *model)
    *messages, last = stderr.splitlines()
    assert status == 2 and "error: " in last and says in last
    assert not messages or says.startswith("frame 1 of") or "--start" in arguments, "found before any work"
    assert "Traceback" not in stderr and partials(tmp_path) == []


def test_without_a_model_the_error_names_the_option(run, make_clip, tmp_path, monkeypatch):
    monkeypatch.setattr("mdqe.weights.source.bundled_models", lambda: ())
    status, _, stderr = run("segment", make_clip(), "-o", tmp_path)
    assert status == 2 and stderr.count("\n") == 1 and "--model" in stderr


def test_a_truncated_video_is_segmented_as_far_as_it_decodes(segment, make_clip, tmp_path):
    clip = make_clip(frames=40)
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * 0.6)])
    status, stdout, stderr = segment(clip, "-o", tmp_path)
    assert status == 1
    assert "the file is truncated: it ends after" in stderr
    result = VideoInstances.load(tmp_path / "clip" / "instances.json")
    assert 0 < result.num_frames < 40
    assert len(list(open_frames(tmp_path / "clip" / "overlay.mp4"))) == result.num_frames
    assert json.loads((tmp_path / "clip" / "instances.json").read_text())["complete"] is False
    assert str(result.num_frames) in stdout.splitlines()[1].split()


@pytest.mark.parametrize(("limit", "fails_on"), [(500, "instances.json"), (9_000, "overlay.mp4")])
def test_a_full_disk_is_one_line_and_status_2(tiny_model, make_clip, tmp_path, limit, fails_on):
    """A limit on the size of files has the same effect as a full disk."""
    clip, out = make_clip(frames=24, size=(128, 160)), tmp_path / "out"
    program = (
        "import resource, sys; from mdqe.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(main())"
    )
    threshold = "1" if fails_on == "overlay.mp4" else "0"  # no instances: a small file
    command = ["segment", str(clip), "-o", str(out), "--model", str(tiny_model), "--score-threshold", threshold]
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--device", "cpu"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert fails_on in errors[0]
    assert "Traceback" not in done.stderr
    assert partials(out) == []
    assert not (out / "clip" / fails_on).exists()


def interrupt_at(monkeypatch, number: int) -> None:
    """Send the signal of Ctrl-C when the model receives this frame."""
    from mdqe.inference.session import VideoSession

    push = VideoSession.push
    taken = []

    def pushed(self, frame):
        taken.append(1)
        if len(taken) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return push(self, frame)

    monkeypatch.setattr(VideoSession, "push", pushed)


def test_an_interruption_keeps_finished_videos_and_marks_the_current_one(segment, make_clip, tmp_path, monkeypatch):
    first, second, third = make_clip("a.mp4"), make_clip("b.mp4"), make_clip("c.mp4")
    interrupt_at(monkeypatch, 9 + 6)
    status, stdout, stderr = segment(first, second, third, "-o", tmp_path)
    assert status == 1
    assert "interrupted" in stderr.splitlines()[-1]
    assert sorted(os.listdir(tmp_path / "a")) == ["instances.json", "overlay.mp4", "sheet.png"]
    assert os.listdir(tmp_path / "b") == ["instances.partial.json"]
    assert not (tmp_path / "c").exists()
    assert VideoInstances.load(tmp_path / "b" / "instances.partial.json").num_frames == 6
    assert json.loads((tmp_path / "b" / "instances.partial.json").read_text())["complete"] is False
    assert "1 of 3 videos were not started" in stderr
    rows = stdout.strip().splitlines()
    assert [row.split()[0] for row in rows] == ["video", str(first), str(second)]
    assert rows[1].endswith(str(tmp_path / "a")) and rows[2].endswith(f"{tmp_path / 'b'}, interrupted")
    assert rows[2].split()[1] == "6"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    monkeypatch.undo()
    assert segment(second, "-o", tmp_path)[0] == 0
    assert sorted(os.listdir(tmp_path / "b")) == ["instances.json", "overlay.mp4", "sheet.png"]


def test_an_interruption_ends_a_camera(segment, make_clip, tmp_path, monkeypatch):
    from mdqe.video import read
    from mdqe.video.read import LiveStream

    clip = make_clip(frames=30)
    monkeypatch.setattr(read, "camera", lambda number, **selection: LiveStream(str(clip), "camera 0", **selection))
    interrupt_at(monkeypatch, 8)
    status, _, stderr = segment("0", "-o", tmp_path)
    assert status == 0, stderr
    assert VideoInstances.load(tmp_path / "camera0" / "instances.json").num_frames == 8
    assert len(list(open_frames(tmp_path / "camera0" / "overlay.mp4"))) == 8
    assert partials(tmp_path) == []


def test_an_interruption_while_drawing_keeps_the_results(segment, make_clip, tmp_path, monkeypatch):
    from mdqe.video.write import VideoWriter

    clip = make_clip()
    write = VideoWriter.write

    def interrupted(self, image, time=None):
        write(self, image, time)
        if self._written == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "write", interrupted)
    status, stdout, _ = segment(clip, "-o", tmp_path)
    assert status == 1
    assert stdout.splitlines()[1].endswith(f"{tmp_path / 'clip'}, interrupted")
    assert sorted(os.listdir(tmp_path / "clip")) == ["instances.json", "overlay.partial.mp4"]
    assert len(list(open_frames(tmp_path / "clip" / "overlay.partial.mp4"))) == 5


def test_frames_are_decoded_one_window_ahead(segment, tiny_model, make_clip, tmp_path, monkeypatch):
    depths = []
    monkeypatch.setattr(
        "mdqe.video.frames.read_ahead", lambda items, depth: depths.append(depth) or read_ahead(items, depth)
    )
    clip, model = make_clip(), MDQE.from_pretrained(tiny_model)
    segment(clip, "-o", tmp_path)
    model.segment(clip)
    list(model.stream(clip))
    assert depths == [model.config.window_length] * 4  # the command reads the video twice
