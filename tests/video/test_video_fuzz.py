"""Damaged videos and images: some frames, or one error that names the file, in limited time."""

import io
from itertools import islice

import numpy as np
import pytest
from fuzzing import accepts, damaged_bytes
from media import write_video
from PIL import Image

from mdqe.video.read import UntrustedVideo, VideoFile, open_frames

COUNT = 60
KINDS = {"mp4": "libx264", "mkv": "libx264", "avi": "mpeg4", "ts": "mpeg2video", "gif": "gif"}
MOST_FRAMES = 500  # of the 8 in the file; damaged times must not repeat them without end


@pytest.mark.parametrize("opened", [VideoFile, UntrustedVideo])
@pytest.mark.parametrize("kind", KINDS)
def test_videos(tmp_path, kind, opened):
    options = {"pix_fmt": "rgb8", "rate": 10} if kind == "gif" else {}
    path = write_video(tmp_path / f"clip.{kind}", codec=KINDS[kind], frames=8, **options)

    def read() -> None:
        frames = opened(path)
        number = sum(frame.shape == (64, 96, 3) or frame.ndim == 3 for frame in islice(frames, MOST_FRAMES))
        assert number < MOST_FRAMES

    read()
    for data in damaged_bytes(path.read_bytes(), COUNT, 0):
        path.write_bytes(data)
        accepts(read, path.name)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"#EXTM3U\n", bytes(range(256)) * 40, b"RIFF\xff\xff\xff\xffAVI "])
def test_files_that_are_no_videos(tmp_path, data):
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    for opened in (VideoFile, UntrustedVideo, open_frames):
        assert not accepts(lambda opened=opened: list(opened(path)), path.name)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM"])
def test_images(tmp_path, form):
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    path = tmp_path / f"image.{'jpg' if form == 'JPEG' else form.lower()}"
    path.write_bytes(buffer.getvalue())
    assert len(list(open_frames(path))) == 1
    for data in damaged_bytes(buffer.getvalue(), COUNT, 1):
        path.write_bytes(data)
        accepts(lambda: list(open_frames(path)), path)
