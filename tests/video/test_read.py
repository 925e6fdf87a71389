"""Reading video files of many formats, and streams."""

import http.server
import subprocess
import sys
import threading
import time
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from media import number_of, picture, reading_threads, turn

from mdqe.video.read import VideoError, open_frames

CODECS = [
    ("h264.mp4", "libx264", "yuv420p"),
    ("faststart.mov", "libx264", "yuv444p"),
    ("hevc.mkv", "libx265", "yuv420p"),
    ("ten_bit.mkv", "libx265", "yuv420p10le"),
    ("vp9.webm", "libvpx-vp9", "yuv420p"),
    ("mpeg4.avi", "mpeg4", "yuv420p"),
    ("mjpeg.avi", "mjpeg", "yuvj420p"),
    ("transport.ts", "libx264", "yuv420p"),
    ("lossless.mkv", "ffv1", "yuv420p"),
    ("alpha.mov", "png", "rgba"),
    ("grey.mkv", "ffv1", "gray"),
    ("palette.gif", "gif", "rgb8"),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), CODECS)
def test_every_frame_of_every_kind_of_file(make_video, name, codec, pix_fmt):
    path = make_video(name, codec=codec, pix_fmt=pix_fmt, codec_options={"x265-params": "log-level=none"})
    frames = open_frames(path)
    assert frames.size == (64, 96)
    assert frames.fps == 25
    images = list(frames)
    assert [number_of(image) for image in images] == list(range(20))
    assert all(image.dtype == np.uint8 and image.shape == (64, 96, 3) for image in images)
    assert frames.count in (20, None)
    assert frames.damage is None
    tolerance = 75 if pix_fmt == "rgb8" else 16  # a palette of 3 + 3 + 2 bits, dithered
    expected = picture(12)
    if pix_fmt == "gray":
        expected = np.repeat(np.round(expected @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
    assert np.abs(images[12].astype(int) - expected).mean() < tolerance / 3
    assert np.abs(images[12][5, 5].astype(int) - expected[5, 5]).max() < tolerance


def test_odd_sizes(make_video):
    frames = open_frames(make_video("odd.mkv", codec="ffv1", pix_fmt="yuv420p", size=(45, 77)))
    assert frames.size == (45, 77)
    assert [image.shape for image in frames] == [(45, 77, 3)] * 20


def test_colours_are_kept(make_video):
    for image in open_frames(make_video("plain.mp4", pix_fmt="yuv444p", codec_options={"crf": "1"})):
        assert np.abs(image[5, 60:].astype(int) - picture(number_of(image))[5, 60:]).max() < 6


# Display matrices (a, b, c, d), which move a pixel (x, y) to (a x + c y, b x + d y), and the same in NumPy.
TURNS = {
    "upright": ((1, 0, 0, 1), lambda image: image),
    "quarter clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "half": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "quarter anticlockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
}


@pytest.mark.parametrize("name", TURNS)
def test_the_display_matrix_is_applied(make_video, name):
    matrix, in_numpy = TURNS[name]
    path = make_video("plain.mp4", frames=3)
    plain = list(open_frames(path))
    turned = open_frames(turn(path, *matrix))
    assert turned.size == in_numpy(plain[0]).shape[:2]
    for image, upright in zip(turned, plain, strict=True):
        assert np.array_equal(image, in_numpy(upright))


def test_the_rotation_is_that_of_the_decoder(make_video):
    av = pytest.importorskip("av")
    path = turn(make_video("turned.mp4", frames=2), 0, 1, -1, 0)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    if not hasattr(frame, "rotation"):
        pytest.skip("this PyAV does not report the rotation")
    expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    assert np.array_equal(next(iter(open_frames(path))), expected)


def test_variable_frame_rate_keeps_its_times(make_video):
    times = [0.0, 0.04, 0.08, 0.4, 0.44, 1.0, 1.5, 1.52, 1.56, 2.0]
    frames = open_frames(make_video("variable.mp4", frames=10, times=times))
    timed = list(frames.timed())
    assert [float(frame.time) for frame in timed] == pytest.approx(times, abs=2e-3)
    assert [number_of(frame.image) for frame in timed] == list(range(10))
    assert [number_of(image) for image in open_frames(frames.path, start=0.3, end=1.51)] == [3, 4, 5, 6]
    assert frames.damage is None


@pytest.mark.parametrize("last", [0.04, 2.0])
@pytest.mark.parametrize("every", [1, 3])
def test_the_end_of_the_last_frame(make_video, last, every):
    path = make_video("x.mp4", frames=5, times=[0.0, 0.04, 0.08, 0.12, 3.0], last=last)
    frames = open_frames(path, every=every)
    assert frames.finish is None or frames.finish > 0
    list(frames)
    assert float(frames.finish) == pytest.approx(3 + last, abs=2e-3)
    assert frames.damage is None
    until = open_frames(path, end=1.0)
    list(until)
    assert until.finish == 1
    before = open_frames(path, start=0.05, end=9.0)
    list(before)
    assert float(before.finish) == pytest.approx(3 + last, abs=2e-3)


def test_images_and_arrays_have_no_end():
    frames = open_frames(np.stack([picture(0)]))
    list(frames)
    assert (frames.finish, frames.pixel_aspect) == (None, 1)


@pytest.mark.parametrize(("name", "codec"), [("x.mp4", "libx264"), ("x.mkv", "libx264"), ("x.ts", "mpeg2video")])
def test_non_square_pixels(make_video, name, codec):
    # MPEG-2 stores the ratio of the picture's sides: 4:3, 16:9 or 2.21:1
    aspect = Fraction(32, 27) if codec == "mpeg2video" else Fraction(2)
    frames = open_frames(make_video(name, codec=codec, pixel_aspect=aspect, frames=5))
    assert (frames.pixel_aspect, frames.size) == (aspect, (64, 96))
    assert [number_of(image) for image in frames] == [0, 1, 2, 3, 4]
    assert open_frames(make_video(f"square-{name}", codec=codec, frames=5)).pixel_aspect == 1


def test_non_square_pixels_of_a_rotated_video(make_video):
    path = turn(make_video("x.mp4", pixel_aspect=Fraction(2), frames=2), 0, 1, -1, 0)
    frames = open_frames(path)
    assert (frames.pixel_aspect, frames.size) == (Fraction(1, 2), (96, 64))


def test_an_impossible_shape_of_pixels_is_ignored(make_video):
    assert open_frames(make_video("x.mp4", pixel_aspect=Fraction(60_000, 7), frames=2)).pixel_aspect == 1


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts", "x.avi", "x.webm"])
def test_stride_and_time_range(make_video, name):
    codec = {"avi": "mpeg4", "ebm": "libvpx-vp9"}.get(name[-3:], "libx264")
    path = make_video(name, codec=codec)

    def numbers(**selection):
        return [number_of(image) for image in open_frames(path, **selection)]

    assert numbers(every=3) == list(range(0, 20, 3))
    assert numbers(start=0.4) == list(range(10, 20))
    assert numbers(end=0.4) == list(range(10))
    assert numbers(start=0.2, end=0.6, every=2) == [5, 7, 9, 11, 13]
    frames = open_frames(path, start=0.2, end=0.6, every=2)
    assert frames.count in (5, None)
    assert frames.fps == Fraction(25, 2)
    assert [float(frame.time) for frame in frames.timed()] == pytest.approx([0.2, 0.28, 0.36, 0.44, 0.52], abs=2e-3)


def test_an_empty_time_range_is_an_error(make_video):
    with pytest.raises(VideoError, match="no frames in the time range"):
        list(open_frames(make_video("x.mp4"), start=5.0))


def test_a_file_can_be_read_again_and_again(make_video):
    frames = open_frames(make_video("x.mp4"))
    assert frames.repeatable
    first = [image.sum() for image in frames]
    assert [image.sum() for image in frames] == first


@pytest.mark.parametrize(("name", "codec"), [("x.mp4", "libx264"), ("x.mkv", "libx264"), ("x.webm", "libvpx-vp9")])
def test_a_truncated_file_is_read_as_far_as_it_decodes(make_video, name, codec):
    path = make_video(name, codec=codec, frames=40, options={"movflags": "+faststart"} if name == "x.mp4" else {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    frames = open_frames(path)
    numbers = [number_of(image) for image in frames]
    assert 5 < len(numbers) < 40
    assert numbers == list(range(len(numbers)))
    assert "truncated" in frames.damage
    assert "of 1.60 s" in frames.damage
    with pytest.raises(VideoError, match="no frames in the time range: the file is truncated"):
        list(open_frames(path, start=1.5))
    before_the_cut = open_frames(path, end=0.2)
    assert len(list(before_the_cut)) == 5
    assert before_the_cut.damage is None


def test_damage_in_the_middle_is_reported(make_video):
    path = make_video("x.mp4", frames=40, size=(240, 320))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(37 * i % 256 for i in range(60))
    path.write_bytes(data)
    frames = open_frames(path)
    assert len(list(frames)) > 30
    assert "damaged frames" in frames.damage


@pytest.mark.parametrize("name", ["x.mp4", "x.txt", "x.nfo", "x.bin", "x.idf"])
@pytest.mark.parametrize("content", [b"", b"not a video at all\n" * 50, bytes(4096)])
def test_a_file_that_is_no_video(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=rf"{name} is not a video") as error:
        open_frames(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi"])
def test_a_file_without_frames(tmp_path, name):
    import av

    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    assert path.stat().st_size > 100
    with pytest.raises(VideoError, match=rf"{name} holds no (frames|video)") as error:
        open_frames(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_truncated_before_its_index(make_video):
    path = make_video("x.mp4", frames=40)  # by default, the index is at the end of an MP4 file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="is not a video, or it is truncated and its frames cannot be located"):
        open_frames(path)


def test_sound_alone_is_no_video(tmp_path):
    import av

    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="holds no video"):
        open_frames(path)


def test_missing_sources_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.mp4"):
        open_frames(tmp_path / "none.mp4")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        open_frames(str(tmp_path / "*.png"))
    with pytest.raises(VideoError, match="holds no images"):
        open_frames(tmp_path)
    with pytest.raises(VideoError, match="camera 97 cannot be opened"):
        list(open_frames(97))


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"every": 0}, "every is 0"),
        ({"every": 1.5}, "every is 1.5"),
        ({"start": -1}, "start is -1"),
        ({"end": 0}, "end is 0"),
        ({"start": 3, "end": 2}, "end is 2; expected seconds after start=3"),
    ],
)
def test_invalid_selections(make_video, selection, says):
    with pytest.raises(ValueError, match=says):
        open_frames(make_video("x.mp4", frames=2), **selection)


def test_a_missing_decoder_library_names_its_install(make_video, monkeypatch):
    import sys

    path = make_video("x.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'mdqe\[video\]'"):
        open_frames(path)


# Streams


@pytest.fixture
def server(tmp_path):
    """The address of an HTTP server for the folder of the files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_network_address(make_video, server):
    make_video("x.mp4")
    frames = open_frames(f"{server}/x.mp4", start=0.2, every=3)
    assert not frames.repeatable
    assert [number_of(image) for image in frames] == [5, 8, 11, 14, 17]
    assert (frames.size, frames.fps) == ((64, 96), Fraction(25, 3))


def test_network_addresses_without_a_video(tmp_path, server):
    (tmp_path / "text.mp4").write_text("no video")
    for address in (f"{server}/none.mp4", f"{server}/text.mp4", "http://127.0.0.1:1/x.mp4", "foo://x"):
        with pytest.raises(VideoError, match="cannot be opened") as error:
            list(open_frames(address))
        assert address in str(error.value)
        assert "\n" not in str(error.value)


# Threads


def test_a_video_is_decoded_only_as_it_is_needed(make_video, monkeypatch):
    frames = open_frames(make_video("x.mp4", frames=40), ahead=4)
    loaded = []
    load = frames._load
    monkeypatch.setattr(frames, "_load", lambda item: loaded.append(1) or load(item))
    images = iter(frames)
    next(images)
    time.sleep(0.2)
    assert len(loaded) <= 6
    images.close()
    assert len(loaded) <= 6
    assert reading_threads() == []


FORK = """
import gc, os, sys, time
import numpy as np
from mdqe.video.read import open_frames
from mdqe.video.write import VideoWriter

gc.disable()  # the objects of the decoder stay until the child collects them
with VideoWriter("clip.mp4", 25) as writer:
    for value in range(0, 200, 20):
        writer.write(np.full((240, 320, 3), value, "uint8"))
assert len(list(open_frames("clip.mp4"))) == 10
child = os.fork()
if child == 0:
    gc.collect()
    os._exit(0)
for _ in range(300):
    if os.waitpid(child, os.WNOHANG) != (0, 0):
        sys.exit(0)
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child is blocked")
"""


def test_a_process_that_is_forked_afterwards_is_not_blocked(tmp_path):
    """Workers of a data loader are forked. They would wait for conversion threads, which exist in the parent only."""
    done = subprocess.run([sys.executable, "-c", FORK], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
