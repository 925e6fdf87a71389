"""Frames from images and arrays, and reading in advance."""

import io
import os
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media import number_of, picture, reading_threads
from PIL import Image

from mdqe.video.frames import read_ahead
from mdqe.video.images import load_image
from mdqe.video.read import VideoError, open_frames

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


ORIENTATIONS = {  # EXIF's number, and how the stored pixels become those that are displayed
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("number", ORIENTATIONS)
@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tif", "x.jpg", "x.jfif", "x.mpo"])
def test_the_exif_orientation_is_applied(tmp_path, number, name):
    exif = Image.Exif()
    exif[0x0112] = number
    quality = {".png": {}, ".tif": {}, ".webp": {"lossless": True}}.get(name[1:], {"quality": 95, "subsampling": 0})
    Image.fromarray(picture(3)).save(tmp_path / name, exif=exif, **quality)
    (read,) = open_frames(tmp_path / name)
    expected = ORIENTATIONS[number](picture(3))
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).mean() < 4


def test_colours_of_a_transparent_palette_are_kept(tmp_path):
    image = Image.fromarray(picture(3)).quantize(4)
    image.save(tmp_path / "x.png", transparency=0)
    assert Image.open(tmp_path / "x.png").info == {"transparency": 0}
    (read,) = open_frames(tmp_path / "x.png")
    assert np.array_equal(read, np.asarray(image.convert("RGB")))


def test_sixteen_bits_per_colour_become_eight(tmp_path):
    with av.open(str(tmp_path / "x.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb48be"
        frame = av.VideoFrame.from_ndarray(picture(3).astype(np.uint16) * 257, format="rgb48le")
        container.mux(stream.encode(frame.reformat(format="rgb48be")))
        container.mux(stream.encode(None))
    assert (tmp_path / "x.png").read_bytes()[24] == 16  # bits in the header
    (read,) = open_frames(tmp_path / "x.png")
    assert np.abs(read.astype(int) - picture(3)).max() <= 1


def test_previews_of_a_photograph_are_not_frames(tmp_path):
    images = [Image.fromarray(picture(i)) for i in (3, 9)]
    images[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=images[1:], quality=95)
    assert Image.open(tmp_path / "x.jpg").n_frames == 2
    assert [number_of(image) for image in open_frames(tmp_path / "x.jpg")] == [3]


@pytest.mark.parametrize("name", ["x.gif", "x.apng"])
def test_animations_are_videos(tmp_path, name):
    images = [Image.fromarray(picture(i)) for i in range(4)]
    kind = {"x.gif": "GIF", "x.apng": "PNG"}[name]
    images[0].save(tmp_path / name, format=kind, save_all=True, append_images=images[1:], duration=[100, 200, 500, 300])
    frames = open_frames(tmp_path / name)
    timed = list(frames.timed())
    assert [number_of(frame.image) for frame in timed] == [0, 1, 2, 3]
    assert [float(frame.time) for frame in timed] == pytest.approx([0, 0.1, 0.3, 0.8])
    assert float(frames.finish) == pytest.approx(1.1)


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


@pytest.mark.parametrize("kind", [list, tuple, iter])
@pytest.mark.parametrize("as_path", [str, Path])
def test_paths_of_images_are_read_in_their_order(tmp_path, kind, as_path):
    for i in range(3):
        Image.fromarray(picture(i)).save(tmp_path / f"{i}.png")
    frames = open_frames(kind([as_path(tmp_path / f"{i}.png") for i in (2, 0, 1)]))
    assert [number_of(image) for image in frames] == [2, 0, 1]


def test_paths_that_are_no_images_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(VideoError, match=r"text\.png cannot be read: not an image"):
        list(open_frames([tmp_path / "text.png"]))
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        list(open_frames([tmp_path / "none.png"]))
    with pytest.raises(VideoError, match="cannot be read"):
        list(open_frames([tmp_path]))


def test_pil_images_are_frames():
    assert [number_of(image) for image in open_frames([Image.fromarray(picture(i)) for i in range(4)])] == [0, 1, 2, 3]


SOURCE = r"; expected a path, a URL, a camera number, an array \(T, H, W, 3\) uint8 or an iterable of frames"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"the content of a file", f"^video is bytes{SOURCE}$"),
        (bytearray(8), f"^video is bytearray{SOURCE}$"),
        (memoryview(b"x"), f"^video is memoryview{SOURCE}$"),
        (io.BytesIO(b"x"), f"^video is BytesIO{SOURCE}$"),
        (io.StringIO("x"), f"^video is StringIO{SOURCE}$"),
        ({"a.png": 1}, f"^video is dict{SOURCE}$"),
        ({"a.png"}, f"^video is set{SOURCE}$"),
        (1.5, f"^video is float{SOURCE}$"),
        (True, f"^video is bool{SOURCE}$"),
        (None, f"^video is NoneType{SOURCE}$"),
        (Image.new("RGB", (8, 8)), f"^video is Image{SOURCE}; segment_image takes a single image$"),
        (np.zeros((8, 9, 3), np.uint8), r"\(8, 9, 3\); expected \(T, H, W, 3\); segment_image takes a single image$"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), "segment_image takes a single image$"),
        ([b"a.png"], r"^a frame is bytes; expected uint8 of \(H, W, 3\), RGB, or the path of an image$"),
        ([None], "^a frame is NoneType; expected uint8"),
        ([[[1, 2, 3]], [[4, 5]]], "^a frame is list; expected uint8"),
        (iter([open]), "^a frame is builtin_function_or_method; expected uint8"),
    ],
)
def test_other_sources_are_one_line(source, says):
    with pytest.raises(VideoError, match=says):
        list(open_frames(source))


def test_an_open_file_is_not_a_path(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    for mode in ("rb", "r"):
        with open(tmp_path / "a.png", mode) as file, pytest.raises(VideoError, match="expected a path"):
            open_frames(file)
    with tempfile.NamedTemporaryFile() as file, pytest.raises(VideoError, match="expected a path"):
        open_frames(file)


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
def test_arrays_of_another_shape_or_type_are_rejected(source, says):
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
    assert len(made) <= 1 + 5 + 1  # taken, in the queue, and in progress
    assert list(items) == list(range(1, 100))
    assert reading_threads() == []


def test_closing_the_iterator_ends_the_thread_and_closes_the_source():
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
    assert reading_threads() == []


def test_errors_are_raised_at_their_position():
    def source():
        yield 1
        yield 2
        raise KeyError("broken")

    items = read_ahead(source(), 10)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="broken"):
        next(items)
    assert reading_threads() == []


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tiff", "a.tif"])
def test_files_with_several_images_are_rejected(tmp_path, name):
    path = tmp_path / name
    images = [Image.new("RGB", (16, 8), (50 * i, 0, 0)) for i in range(5)]
    images[0].save(path, save_all=True, append_images=images[1:])
    with pytest.raises(VideoError, match=rf"{name} contains 5 images; expected one image per file, or a video file"):
        open_frames(path)
    images[0].save(path)
    assert len(list(open_frames(path))) == 1


def test_floating_point_and_32_bit_images_are_rejected(tmp_path):
    Image.fromarray(np.full((8, 16), 0.5, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(VideoError, match=r"f\.tif has floating-point pixels"):
        open_frames(tmp_path / "f.tif")
    Image.fromarray(np.full((8, 16), 70_000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(VideoError, match=r"i\.tif has values from 70000 to 70000"):
        open_frames(tmp_path / "i.tif")


@pytest.mark.timeout(20)
@pytest.mark.skipif(os.name != "posix", reason="needs pipes of POSIX")
@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.png", "pipe"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(VideoError, match=rf"{name} is a device, a pipe or a socket"):
        open_frames(tmp_path / name)
    with pytest.raises(VideoError, match="is a device, a pipe or a socket"):
        load_image(tmp_path / name)
