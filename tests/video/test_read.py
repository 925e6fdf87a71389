"""Reading real files of many kinds."""

import http.server
import subprocess
import sys
import threading
import time
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from media import number_of, picture, turn
from PIL import Image

from mdqe.video.frames import read_ahead
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


def quiet_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "mdqe-read-ahead"]


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


def test_untagged_and_tagged_colours_come_back(make_video):
    for image in open_frames(make_video("plain.mp4", pix_fmt="yuv444p", codec_options={"crf": "1"})):
        assert np.abs(image[5, 60:].astype(int) - picture(number_of(image))[5, 60:]).max() < 6


# Display matrices (a, b, c, d), which put a pixel (x, y) at (a x + c y, b x + d y), and the same in NumPy.
TURNS = {
    "upright": ((1, 0, 0, 1), lambda image: image),
    "quarter clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "half": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "quarter anticlockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
}


@pytest.mark.parametrize("name", TURNS)
def test_display_matrix_is_honoured(make_video, name):
    matrix, in_numpy = TURNS[name]
    path = make_video("plain.mp4", frames=3)
    plain = list(open_frames(path))
    turned = open_frames(turn(path, *matrix))
    assert turned.size == in_numpy(plain[0]).shape[:2]
    for image, upright in zip(turned, plain, strict=True):
        assert np.array_equal(image, in_numpy(upright))


def test_a_turned_file_agrees_with_the_decoder_on_its_angle(make_video):
    av = pytest.importorskip("av")
    path = turn(make_video("turned.mp4", frames=2), 0, 1, -1, 0)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    if not hasattr(frame, "rotation"):
        pytest.skip("this PyAV does not tell the angle")
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
def test_a_truncated_file_gives_what_decodes_and_says_so(make_video, name, codec):
    path = make_video(name, codec=codec, frames=40, options={"movflags": "+faststart"} if name == "x.mp4" else {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    frames = open_frames(path)
    numbers = [number_of(image) for image in frames]
    assert 5 < len(numbers) < 40
    assert numbers == list(range(len(numbers)))
    assert "cut off" in frames.damage
    assert "of 1.60 s" in frames.damage
    with pytest.raises(VideoError, match="no frames in the time range: the file is cut off"):
        list(open_frames(path, start=1.5))
    before_the_cut = open_frames(path, end=0.2)
    assert len(list(before_the_cut)) == 5
    assert before_the_cut.damage is None


def test_a_file_damaged_in_the_middle_says_so(make_video):
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


def test_a_file_cut_off_before_its_index(make_video):
    path = make_video("x.mp4", frames=40)  # an MP4 file's index comes last unless asked for otherwise
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="is not a video, or it is cut off so that its frames cannot be found"):
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


def test_missing_things_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.mp4"):
        open_frames(tmp_path / "none.mp4")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        open_frames(str(tmp_path / "*.png"))
    with pytest.raises(VideoError, match="holds no images"):
        open_frames(tmp_path)
    with pytest.raises(VideoError, match="camera 97 cannot be opened"):
        list(open_frames(97))
    with pytest.raises(TypeError, match="video is float"):
        open_frames(1.5)


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"every": 0}, "every is 0"),
        ({"every": 1.5}, "every is 1.5"),
        ({"start": -1}, "start is -1"),
        ({"end": 0}, "end is 0"),
        ({"start": 3, "end": 2}, "end is 2; expected seconds after start, 3"),
    ],
)
def test_selections_that_make_no_sense(make_video, selection, says):
    with pytest.raises(ValueError, match=says):
        open_frames(make_video("x.mp4", frames=2), **selection)


def test_a_missing_decoder_library_names_its_install(make_video, monkeypatch):
    import sys

    path = make_video("x.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'mdqe\[video\]'"):
        open_frames(path)


# Sources that come once


@pytest.fixture
def server(tmp_path):
    """The address of an HTTP server of the folder of files."""

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


def test_network_addresses_that_give_nothing(tmp_path, server):
    (tmp_path / "text.mp4").write_text("no video")
    for address in (f"{server}/none.mp4", f"{server}/text.mp4", "http://127.0.0.1:1/x.mp4", "foo://x"):
        with pytest.raises(VideoError, match="cannot be opened") as error:
            list(open_frames(address))
        assert address in str(error.value)
        assert "\n" not in str(error.value)


# Images


def test_a_folder_is_read_in_natural_order(tmp_path):
    for i in (10, 9, 1, 2, 11):
        Image.fromarray(picture(i)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_text("not a frame")
    frames = open_frames(tmp_path)
    assert (frames.size, frames.count, frames.fps) == ((64, 96), 5, None)
    assert [number_of(image) for image in frames] == [1, 2, 9, 10, 11]
    assert [number_of(image) for image in open_frames(tmp_path, every=2)] == [1, 9, 11]
    assert [number_of(image) for image in open_frames(str(tmp_path / "frame1*.png"))] == [1, 10, 11]
    assert [number_of(image) for image in open_frames(tmp_path / "frame9.png")] == [9]
    with pytest.raises(ValueError, match="have no times"):
        open_frames(tmp_path, start=1.0)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    colour = Image.fromarray(picture(5))
    suffix = "tif" if mode == "CMYK" else "png"
    if mode == "I;16":
        image = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):
        image = colour.convert(mode)
        image.putalpha(128)
    else:
        image = colour.convert(mode)
    image.save(tmp_path / f"x.{suffix}")
    (read,) = open_frames(tmp_path / f"x.{suffix}")
    assert (read.dtype, read.shape) == (np.uint8, (64, 96, 3))
    if mode not in ("P", "1"):
        plain = colour if mode in ("RGB", "RGBA", "CMYK") else colour.convert("L").convert("RGB")
        assert np.abs(read.astype(int) - np.asarray(plain)).max() <= 2


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    Image.fromarray(picture(3)).save(tmp_path / "x.png", exif=exif)
    (read,) = open_frames(tmp_path / "x.png")
    assert np.array_equal(read, np.rot90(picture(3), -1))


def test_images_of_changing_size_are_an_error_that_names_the_frame(tmp_path):
    for i, size in enumerate([(64, 96), (64, 96), (60, 96)]):
        Image.fromarray(picture(i, size)).save(tmp_path / f"{i}.png")
    with pytest.raises(VideoError, match=r"frame 2 of folder .* is 96x60; the frames before it are 96x64"):
        list(open_frames(tmp_path))


def test_a_damaged_image_is_named(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    data = (tmp_path / "0.png").read_bytes()
    (tmp_path / "1.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "2.png").write_bytes(b"text")
    with pytest.raises(VideoError, match=r"1\.png cannot be read"):
        list(open_frames(tmp_path))
    with pytest.raises(VideoError, match=r"2\.png cannot be read: not an image"):
        open_frames(tmp_path / "2.png")


def test_a_video_of_changing_size_is_an_error_that_names_the_frame(make_video, tmp_path):
    small = make_video("small.h264", frames=5).read_bytes()
    large = make_video("large.h264", frames=5, size=(96, 128)).read_bytes()
    path = tmp_path / "both.h264"
    path.write_bytes(small + large)
    with pytest.raises(VideoError, match=r"frame 5 of .*both\.h264 is 128x96; the frames before it are 96x64"):
        list(open_frames(path))


# Arrays


@pytest.mark.parametrize("kind", ["array", "tensor", "list", "generator", "tensors"])
def test_frames_in_memory_pass_through(kind):
    video = np.stack([picture(i) for i in range(7)])
    source = {
        "array": video,
        "tensor": torch.from_numpy(video),
        "list": list(video),
        "generator": (image for image in video),
        "tensors": [torch.from_numpy(image) for image in video],
    }[kind]
    frames = open_frames(source, every=2)
    assert frames.repeatable == (kind != "generator")
    assert np.array_equal(np.stack(list(frames)), video[::2])
    assert frames.count == (None if kind == "generator" else 4)
    assert frames.size == (64, 96)
    assert open_frames(frames) is frames


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros((4, 8, 8), np.uint8), "expected"),
        (np.zeros((4, 3, 8, 8), np.uint8), "expected"),
        (np.zeros((2, 8, 8, 3), np.float32), "float32"),
        ([np.zeros((8, 8), np.uint8)], r"\(8, 8\)"),
        ([], "holds? no frames"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "frame 1 of frames is 9x8"),
    ],
)
def test_frames_in_memory_of_another_form_are_refused(source, says):
    with pytest.raises(VideoError, match=says):
        list(open_frames(source))


# Reading ahead


def test_reading_ahead_is_bounded():
    made = []

    def source():
        for i in range(100):
            made.append(i)
            yield i

    items = read_ahead(source(), 5)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) <= 1 + 5 + 1  # taken, waiting, and the one in hand
    assert list(items) == list(range(1, 100))
    assert quiet_threads() == []


def test_giving_up_ends_the_thread_and_closes_the_source():
    closed = []

    def source():
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    items = read_ahead(source(), 3)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert closed == [True]
    assert quiet_threads() == []


def test_errors_come_in_their_place():
    def source():
        yield 1
        yield 2
        raise KeyError("broken")

    items = read_ahead(source(), 10)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="broken"):
        next(items)
    assert quiet_threads() == []


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
    assert quiet_threads() == []


FORK = """
import gc, os, sys, time
import numpy as np
from mdqe.video.read import open_frames
from mdqe.video.write import VideoWriter

gc.disable()  # what is left of frames stays until the child collects it
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
sys.exit("the child waits")
"""


def test_a_process_that_is_forked_afterwards_can_go_on(tmp_path):
    """As a data loader's workers are: threads of the conversion, which a child does not have, would be waited for."""
    done = subprocess.run([sys.executable, "-c", FORK], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
