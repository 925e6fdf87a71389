"""Opening anything that holds frames."""

import glob
from os import PathLike
from pathlib import Path
from typing import Any

from mdqe.video.decode import LiveStream, VideoFile, camera
from mdqe.video.frames import ArrayFrames, Frames, TimedFrame, VideoError
from mdqe.video.images import ImageFrames, is_image

__all__ = ["Frames", "TimedFrame", "VideoError", "open_frames"]


def open_frames(
    source: Any, *, every: int = 1, start: float | None = None, end: float | None = None, ahead: int = 30
) -> Frames:
    """The frames of a source, opened but not yet decoded.

    Args:
        source: the path of a video file, of an image or of a folder of images (natural order); a glob of images; a
            camera's number; a URL; an array or tensor (T, H, W, 3) uint8 RGB; any iterable of (H, W, 3) uint8 frames;
            or `Frames`, which are given back as they are.
        every: take every so many frames.
        start, end: seconds from the beginning of the video; frames with start <= time < end are taken.
        ahead: how many frames may be decoded early.

    Raises:
        FileNotFoundError: there is no such file, or the glob matches none.
        VideoError: it is there but is no video, or holds no frames.
        ValueError: a selection that makes no sense, such as times for images.
        ImportError: PyAV or pillow is not installed.
    """
    selection: dict[str, Any] = {"every": every, "start": start, "end": end, "ahead": ahead}
    if isinstance(source, Frames):
        return source
    if isinstance(source, int) and not isinstance(source, bool):
        return camera(source, **selection)
    if not isinstance(source, str | PathLike):
        if not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
            raise TypeError(f"video is {type(source).__name__}; expected a path, an array or an iterable of frames")
        return ArrayFrames(source, **selection)
    text, path = str(source), Path(source)
    if "://" in text:
        return LiveStream(text, text, **selection)
    if path.is_dir():
        return _images([entry for entry in path.iterdir() if is_image(entry)], f"folder {text}", selection)
    if path.exists():
        return ImageFrames([path], text, **selection) if is_image(path) else VideoFile(path, **selection)
    if text.isdecimal():
        return camera(int(text), **selection)
    if glob.has_magic(text):
        found = [Path(match) for match in glob.glob(text, recursive=True)]
        if not found:
            raise FileNotFoundError(f"no file matches {text}")
        return _images([match for match in found if is_image(match)], text, selection)
    raise FileNotFoundError(f"no such file: {text}")


def _images(paths: list[Path], name: str, selection: dict[str, Any]) -> Frames:
    if not paths:
        raise VideoError(f"{name} holds no images")
    return ImageFrames(paths, name, **selection)
