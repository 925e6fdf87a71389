"""Files that are not the videos that they claim to be, and videos with large frames."""

import av
import numpy as np
import pytest
from PIL import Image

from mdqe.video.read import UntrustedVideo, VideoError, VideoFile

KINDS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "mov": "libx264", "ts": "mpeg2video",
         "mpg": "mpeg1video", "flv": "flv", "wmv": "wmv2", "gif": "gif"}  # fmt: skip


def write(path, codec="libx264", size=(64, 96), number=5):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10 if codec == "gif" else 25)
        stream.height, stream.width = size
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for i in range(number):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_videos_are_read_as_usual(tmp_path, kind):
    path = write(tmp_path / f"clip.{kind}", KINDS[kind])
    frames = UntrustedVideo(path)
    assert frames.name == path.name
    assert np.array_equal(list(frames), list(VideoFile(path)))


def test_a_file_that_refers_to_another_one_is_rejected(tmp_path):
    secret = write(tmp_path / "secret.ts", "mpeg2video")
    list_of_files, playlist = tmp_path / "clip.mp4", tmp_path / "clip.m3u8"
    list_of_files.write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    for path in (list_of_files, playlist):
        assert len(list(VideoFile(path))) == 5, "without the protection it is read"
        with pytest.raises(VideoError, match=f"^{path.name} is not a video"):
            UntrustedVideo(path)


def test_an_image_is_not_a_video(tmp_path):
    Image.new("RGB", (96, 64)).save(tmp_path / "clip.mp4", format="PNG")
    with pytest.raises(VideoError, match="is not a video"):
        UntrustedVideo(tmp_path / "clip.mp4")


def test_frames_that_are_too_large_are_rejected(tmp_path):
    path = write(tmp_path / "clip.mp4")
    assert len(list(UntrustedVideo(path, max_pixels=96 * 64))) == 5
    with pytest.raises(VideoError, match=r"^clip.mp4 is 96x64; expected at most 6143 pixels a frame$"):
        UntrustedVideo(path, max_pixels=96 * 64 - 1)


def test_frames_that_are_larger_than_announced_are_not_decoded(tmp_path):
    large = write(tmp_path / "large.ts", "mpeg2video", size=(640, 960)).read_bytes()
    small = write(tmp_path / "small.ts", "mpeg2video").read_bytes()
    path = tmp_path / "clip.ts"
    path.write_bytes(small + large)
    with pytest.raises(VideoError, match="is 960x640; the frames before it are 96x64"):
        list(VideoFile(path))
    frames = UntrustedVideo(path, max_pixels=96 * 64)
    assert 0 < len(list(frames)) <= 5
    assert "damaged" in frames.damage
