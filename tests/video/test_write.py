"""Written files, read back with PyAV only."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import number_of, picture

from mdqe.video.read import open_frames
from mdqe.video.write import VideoWriter


def read_back(path, **conversion):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(float(f.time), f.to_ndarray(format="rgb24", **conversion)) for f in container.decode(stream)]
        return stream.codec_context, stream, frames


def audio_of(path) -> tuple[str, float, np.ndarray]:
    """Codec, time of the first sample, and mono samples of the audio of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=44100)
        pieces, first = [], None
        for frame in container.decode(stream):
            first = frame.time if first is None else first
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        return stream.codec_context.name, first, np.concatenate(pieces)


def pitch_at(samples: np.ndarray, seconds: float) -> float:
    """The strongest frequency in a twentieth of a second around that time."""
    middle = int(seconds * 44100)
    piece = samples[middle - 1100 : middle + 1100]
    return float(np.argmax(np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 8820))) * 5)


def write(path, number=20, size=(64, 96), **choices):
    with VideoWriter(path, choices.pop("fps", 25), **choices) as writer:
        for i in range(number):
            writer.write(picture(i, size))
    return writer


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(30000, 1001), 25, 12.5, 60, Fraction(1, 2)])
def test_a_file_that_a_browser_plays(tmp_path, fps):
    path = tmp_path / "x.mp4"
    write(path, fps=fps)
    context, stream, frames = read_back(path)
    assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    assert stream.average_rate == Fraction(fps)
    assert len(frames) == 20
    assert [time for time, _ in frames] == pytest.approx([i / float(fps) for i in range(20)], abs=1e-4)
    assert [number_of(image) for _, image in frames] == list(range(20))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # it plays before it is loaded completely
    assert os.listdir(tmp_path) == ["x.mp4"]


def test_colours_are_kept(tmp_path):
    write(tmp_path / "x.mp4", 3, size=(96, 144), quality=1)
    context, _, frames = read_back(tmp_path / "x.mp4", src_colorspace="ITU709", dst_color_range="JPEG")
    assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
    by_ourselves = next(iter(open_frames(tmp_path / "x.mp4")))
    for place in [(5, 5), (90, 140), (50, 100)]:
        assert np.abs(frames[0][1][place].astype(int) - picture(0, (96, 144))[place]).max() <= 5
        assert np.abs(by_ourselves[place].astype(int) - picture(0, (96, 144))[place]).max() <= 5


@pytest.mark.parametrize("size", [(65, 96), (64, 97), (65, 97)])
def test_odd_edges_are_padded_with_a_note(tmp_path, size):
    writer = write(tmp_path / "x.mp4", 3, size, quality=1)
    _, _, frames = read_back(tmp_path / "x.mp4")
    even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert frames[0][1].shape[:2] == even
    assert writer.notes == [f"the video is padded from {size[1]}x{size[0]} to {even[1]}x{even[0]}: "
                            "H.264 needs even edges"]  # fmt: skip
    last = frames[0][1][-1, -1].astype(int)  # repeated, not black
    assert np.abs(last - picture(0, size)[-1, -1]).max() < 12


def test_even_edges_need_no_note(tmp_path):
    assert write(tmp_path / "x.mp4", 2).notes == []


def test_frames_at_their_own_times(tmp_path):
    times = [Fraction(t).limit_denominator(1000) for t in (0, 0.04, 0.5, 0.52, 2)]
    with VideoWriter(tmp_path / "x.mp4", Fraction(30000, 1001)) as writer:
        for i, time in enumerate(times):
            writer.write(picture(i), time)
    _, _, frames = read_back(tmp_path / "x.mp4")
    assert [time for time, _ in frames] == pytest.approx([float(t) for t in times], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "kept"), [("s.mp4", "aac", True), ("s.mkv", "mp3", True), ("s.mkv", "pcm_s16le", False)]
)
def test_audio_is_kept(make_video, tmp_path, name, codec, kept):
    if codec == "mp3":
        try:
            source = make_video(name, frames=25, audio="libmp3lame")
        except av.FFmpegError:
            pytest.skip("this PyAV cannot encode MP3")
    else:
        source = make_video(name, frames=25, audio=codec)
    writer = write(tmp_path / "x.mp4", 25, audio_from=source)
    assert writer.notes == []
    written, first, samples = audio_of(tmp_path / "x.mp4")
    assert written.startswith(codec if kept else "aac")
    assert abs(first) < 0.05
    for seconds in (0.15, 0.55, 0.85):
        assert pitch_at(samples, seconds - first) == pytest.approx(400 + 200 * int(seconds * 10), abs=15)


@pytest.mark.parametrize(("name", "codec"), [("s.mp4", "aac"), ("s.mkv", "pcm_s16le")])
def test_audio_of_a_time_range(make_video, tmp_path, name, codec):
    source = make_video(name, frames=50, audio=codec)
    choices = {"audio_from": source, "audio_start": Fraction(4, 5), "audio_end": Fraction(7, 5)}
    with VideoWriter(tmp_path / "x.mp4", 25, **choices) as writer:
        for i in range(20, 35):  # 0.8 s to 1.4 s
            writer.write(picture(i), Fraction(i, 25) - Fraction(4, 5))
    _, first, samples = audio_of(tmp_path / "x.mp4")
    assert abs(first) < 0.06
    assert len(samples) / 44100 == pytest.approx(0.6, abs=0.06)
    for seconds in (0.15, 0.45):
        assert pitch_at(samples, seconds - first) == pytest.approx(400 + 200 * int((seconds + 0.8) * 10), abs=15)


@pytest.mark.parametrize(("name", "codec"), [("s.mp4", "aac"), ("s.mkv", "pcm_s16le")])
def test_audio_after_the_last_frame_is_kept(make_video, tmp_path, name, codec):
    source = make_video(name, frames=10, audio=codec, seconds=3)
    assert write(tmp_path / "x.mp4", 10, audio_from=source).notes == []
    _, first, samples = audio_of(tmp_path / "x.mp4")
    assert first + len(samples) / 44100 == pytest.approx(3, abs=0.06)
    assert pitch_at(samples, 2.85 - first) == pytest.approx(400 + 200 * 28, abs=15)
    with av.open(str(tmp_path / "x.mp4")) as container:
        video = container.streams.video[0]
        assert float(video.duration * video.time_base) == pytest.approx(0.4)


def test_audio_before_the_first_frame_is_a_note(tmp_path):
    source = tmp_path / "late.mkv"
    with av.open(str(source), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=8000)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        for i in range(20):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 8000, 800 * i, Fraction(1, 8000)
            container.mux(sound.encode(samples))
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = 20 + i, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    note = "the first 0.80 s of audio, before the first frame, are not kept"
    assert write(tmp_path / "x.mp4", 25, audio_from=source).notes == [note]
    assert write(tmp_path / "y.mp4", 5, audio_from=source, audio_start=Fraction(1, 5)).notes == []


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(64, 45), Fraction(10, 11)])
def test_the_shape_of_pixels_is_kept(tmp_path, aspect):
    write(tmp_path / "x.mp4", 3, pixel_aspect=aspect)
    with av.open(str(tmp_path / "x.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (96, 64)
        assert (stream.sample_aspect_ratio, stream.display_aspect_ratio) == (aspect, aspect * Fraction(96, 64))
    assert open_frames(tmp_path / "x.mp4").pixel_aspect == aspect


@pytest.mark.parametrize("last", [Fraction(1, 25), Fraction(2)])
@pytest.mark.parametrize("rate", [25, Fraction(5, 3)])
def test_the_last_frame_ends_when_it_should(tmp_path, last, rate):
    times = [Fraction(t, 100) for t in (0, 4, 8, 12, 300)]
    with VideoWriter(tmp_path / "x.mp4", rate) as writer:
        for i, time in enumerate(times):
            writer.write(picture(i), time)
        writer.end = times[-1] + last
    with av.open(str(tmp_path / "x.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(float(3 + last), abs=1e-3)
        assert container.duration / 1e6 == pytest.approx(float(3 + last), abs=2e-3)
        durations = [float(frame.duration * frame.time_base) for frame in container.decode(stream)]
    assert durations == pytest.approx([0.04, 0.04, 0.04, 2.88, float(last)], abs=1e-3)


def test_without_a_given_end_the_last_frame_lasts_one_period(tmp_path):
    with VideoWriter(tmp_path / "x.mp4", 10) as writer:
        for i, time in enumerate((Fraction(0), Fraction(3))):
            writer.write(picture(i), time)
    assert av.open(str(tmp_path / "x.mp4")).duration / 1e6 == pytest.approx(3.1, abs=2e-3)


def test_a_source_without_audio_and_a_missing_source(make_video, tmp_path):
    silent = make_video("silent.mp4", frames=3)
    assert write(tmp_path / "x.mp4", 3, audio_from=silent).notes == []
    writer = write(tmp_path / "y.mp4", 3, audio_from=tmp_path / "gone.mp4")
    assert len(writer.notes) == 1
    assert "audio is not kept" in writer.notes[0]
    assert (tmp_path / "y.mp4").exists()


def test_an_error_leaves_no_file_and_keeps_an_old_one(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_text("old")
    with pytest.raises(KeyError), VideoWriter(path, 25) as writer:
        for i in range(80):  # the encoder buffers frames before it writes
            writer.write(picture(i % 40))
        assert (tmp_path / "x.partial.mp4").exists()
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.mp4"]


def test_an_interruption_leaves_a_playable_partial_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "x.mp4", 25) as writer:
        for i in range(7):
            writer.write(picture(i))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["x.partial.mp4"]
    assert len(read_back(tmp_path / "x.partial.mp4")[2]) == 7


def test_a_file_without_frames_is_not_created(tmp_path):
    with VideoWriter(tmp_path / "x.mp4", 25):
        pass
    assert os.listdir(tmp_path) == []


def test_invalid_input_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="fps is 0"):
        VideoWriter(tmp_path / "x.mp4", 0)
    with pytest.raises(ValueError, match="the first was"), VideoWriter(tmp_path / "x.mp4", 25) as writer:
        writer.write(picture(0))
        writer.write(picture(0, (32, 32)))
    with pytest.raises(OSError, match=r"missing.x\.mp4"):
        write(tmp_path / "missing" / "x.mp4")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    """A limit of 20 kB on the size of files has the same effect as a full disk."""
    program = """
import resource, sys
import numpy as np
from mdqe.video.read import open_frames
from mdqe.video.write import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
random = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], 25) as writer:
        for _ in range(60):
            writer.write(random.integers(0, 255, (120, 160, 3), dtype=np.uint8))
except OSError as error:
    print(error.errno, error.filename)
"""
    path = tmp_path / "x.mp4"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    number, _, name = done.stdout.strip().partition(" ")
    assert int(number) > 0, done.stderr
    assert name == str(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="names that only POSIX allows")
def test_a_colon_in_a_relative_path_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.zeros((32, 48, 3), np.uint8)
    for name in ("2026-11-28T12:30:00.mp4", "http:x.mp4", "run:1/a.mp4"):
        Path(name).parent.mkdir(exist_ok=True)
        with VideoWriter(name, 10) as writer:
            writer.write(image)
        assert Path(name).is_file()
        assert len(list(open_frames(name))) == 1
        with VideoWriter("copy.mp4", 10, audio_from=name) as writer:
            writer.write(image)
        assert writer.notes == []


@pytest.mark.skipif(os.name != "posix", reason="needs links and pipes of POSIX")
def test_a_video_is_written_through_a_link_and_never_over_a_pipe(tmp_path):
    (tmp_path / "link.mp4").symlink_to(tmp_path / "target.mp4")
    with VideoWriter(tmp_path / "link.mp4", 10) as writer:
        writer.write(np.zeros((32, 48, 3), np.uint8))
    assert (tmp_path / "link.mp4").is_symlink() and len(list(open_frames(tmp_path / "target.mp4"))) == 1
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OSError, match="a device, a pipe or a socket"):
        VideoWriter(tmp_path / "pipe.mp4", 10)
    assert sorted(os.listdir(tmp_path)) == ["link.mp4", "pipe.mp4", "target.mp4"]
    os.mkfifo(tmp_path / "x.partial.mp4")
    with pytest.raises(OSError, match="a device, a pipe or a socket"):
        VideoWriter(tmp_path / "x.mp4", 10)
    assert (tmp_path / "x.partial.mp4").is_fifo()
    (tmp_path / "y.partial.mp4").symlink_to(tmp_path / "target.mp4")
    before = (tmp_path / "target.mp4").read_bytes()
    with VideoWriter(tmp_path / "y.mp4", 10) as writer:
        writer.write(np.full((32, 48, 3), 200, np.uint8))
    assert (tmp_path / "target.mp4").read_bytes() == before
