"""Opening any source of frames: video files, cameras and network streams, image files and arrays."""

import glob
import sys
from collections.abc import Generator, Iterator, Mapping, Set
from contextlib import closing
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mdqe.video import is_address, local_file, require_av
from mdqe.video.arrays import ArrayFrames
from mdqe.video.frames import Frames, TimedFrame, VideoError, require_regular
from mdqe.video.images import ImageFrames, is_image

__all__ = ["Frames", "LiveStream", "TimedFrame", "UntrustedVideo", "VideoError", "VideoFile", "open_frames"]

OPEN_SECONDS, READ_SECONDS = 20.0, 60.0  # timeouts of network streams
MAX_ASPECT = 16  # pixels that are wider or higher than this are an error of the file
SOURCE = "a path, a URL, a camera number, an array (T, H, W, 3) uint8 or an iterable of frames"
NO_FRAMES = (bytes, bytearray, memoryview, Mapping, Set)  # iterables whose items are no frames, or in no order
TEXT_ART = ("tty", "bin", "xbin", "adf", "idf")  # libav renders text files with certain names as terminal output
CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "gif")
"""Demuxers of files that contain their own frames. Others, such as playlists, make libav open further files and
addresses: a playlist with the name of a video would show files of the machine that opens it."""


def open_frames(
    source: Any, *, every: int = 1, start: float | None = None, end: float | None = None, ahead: int = 30
) -> Frames:
    """Open a source of frames. No frames are decoded yet, except the first one of a file for its size.

    Args:
        source: the path of a video file, of an image or of a folder of images (natural order); a glob of images; a
            camera number; a URL; an array or tensor (T, H, W, 3) uint8 RGB; any iterable of frames, which are (H, W, 3)
            uint8 RGB or paths of images, in this order; or `Frames`, which are returned unchanged.
        every: select every Nth frame.
        start, end: seconds from the beginning of the video; frames with start <= time < end are selected.
        ahead: the maximum number of frames that are decoded in advance.

    Raises:
        FileNotFoundError: there is no such file, or the glob matches no file.
        VideoError: the source is not a video, it contains no frames, or `source` has none of these types.
        InputError: an invalid selection, such as times for images.
        DependencyError: PyAV or pillow is not installed.
    """
    selection: dict[str, Any] = {"every": every, "start": start, "end": end, "ahead": ahead}
    if isinstance(source, Frames):
        return source
    if isinstance(source, int) and not isinstance(source, bool):
        return camera(source, **selection)
    if not isinstance(source, str | PathLike):
        iterable = hasattr(source, "__iter__") or hasattr(source, "__getitem__")
        if not iterable or hasattr(source, "readline") or isinstance(source, NO_FRAMES):
            single = "; segment_image takes a single image" if hasattr(source, "__array_interface__") else ""
            raise VideoError(f"video is {type(source).__name__}; expected {SOURCE}{single}")
        return ArrayFrames(source, **selection)
    text, path = str(source), Path(source)
    if not text:  # as of an empty shell variable; its path is the current folder
        raise VideoError("video is '', expected a path, a URL or a camera number")
    if is_address(text):
        return LiveStream(text, text, **selection)
    if path.is_dir():
        return _images([entry for entry in path.iterdir() if is_image(entry)], f"folder {text}", selection)
    if path.exists():
        require_regular(path)
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


class VideoFile(Frames):
    """A video file in any container and codec that PyAV decodes.

    Frames are rotated and mirrored by the file's display matrix and converted to 8-bit RGB. Transparency is ignored.
    Frames with non-square pixels have their stored size; `pixel_aspect` is the ratio at which they are displayed.
    Times come from the file, so a variable frame rate is kept. Frames that cannot be decoded are skipped; `damage` then
    reports them. `damage` also reports a file that ends before its announced length.
    """

    container_options: ClassVar[dict[str, str]] = {}
    """Options of libav for opening the file."""

    def __init__(self, path: str | Path, **selection: Any) -> None:
        super().__init__(str(path), **selection)
        self.path = str(path)
        self._probe()

    def _open(self) -> Any:
        av = require_av()
        try:
            return av.open(local_file(self.path), options=self.container_options, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise _unreadable(self.name, error) from error

    def _probe(self) -> None:
        """Set the size, rate and count from the header and the first frame."""
        with self._open() as container:
            stream = _video_stream(container, self.name)
            rate, length, frames = _rate(stream), _length(container, stream), stream.frames
        with closing(self._items(Fraction(0))) as items:
            first = next(items, None)
            if first is None:
                raise VideoError(f"{self.name} holds no frames that decode")
            self.size = self._load(first[1]).shape[:2]
        self.damage = None
        if rate is None:
            return
        self.fps = rate / self.every
        if self.start is None and self.end is None and frames:
            self.count = -(-frames // self.every)
        elif length is not None:
            span = (length if self.end is None else min(length, self.end)) - (self.start or 0)
            self.count = max(0, -(-round(span * rate) // self.every))

    def _items(self, start: Fraction) -> Generator[tuple[Fraction, Any], None, None]:
        with self._open() as container:
            stream = _video_stream(container, self.name)
            stream.thread_type = "AUTO"
            if start > 0 and _seek(container, stream, start):
                items = self._decode(container, stream)
                first = next(items, None)
                if first is not None and first[0] <= start:
                    yield first
                    yield from items
                    return
        self.damage = None
        with self._open() as container:  # from the beginning: no seek, or the seek went too far
            stream = _video_stream(container, self.name)
            stream.thread_type = "AUTO"
            yield from self._decode(container, stream)

    def _decode(self, container: Any, stream: Any) -> Iterator[tuple[Fraction, Any]]:
        av = require_av()
        origin = (stream.start_time or 0) * stream.time_base
        period = 1 / (_rate(stream) or Fraction(25))
        time, reached, damaged = -period, Fraction(0), 0
        try:
            for frame in _decoded(container, stream):
                if frame is None:
                    damaged += 1
                    continue
                time = time + period if frame.pts is None else frame.pts * frame.time_base - origin
                reached = time + (frame.duration * frame.time_base if frame.duration else period)
                self.finish = reached if self.end is None else min(reached, self.end)
                self.pixel_aspect = _pixel_aspect(stream, frame)
                damaged += bool(frame.is_corrupt)
                yield time, frame
        except av.FFmpegError as error:
            self.damage = f"reading stopped at {float(reached):.2f} s: {_reason(error)}"
            return
        length = _length(container, stream)
        if length is not None and length - reached > max(Fraction(1, 10), 2 * period):
            self.damage = f"the file is truncated: it ends after {float(reached):.2f} of {float(length):.2f} s"
        elif damaged:
            self.damage = f"damaged frames: {damaged}"

    def _load(self, item: Any) -> np.ndarray:
        return _upright(item)


class UntrustedVideo(VideoFile):
    """A video file from an unknown person, which may be an attack.

    Only the demuxers of CONTAINERS open it. They read no other file and no network address. A video with more than
    `max_pixels` pixels in a frame is rejected before a frame is decoded. Messages contain the file's name without its
    folder.
    """

    container_options: ClassVar = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}

    def __init__(self, path: str | Path, *, max_pixels: int = 4096 * 2304, **selection: Any) -> None:
        Frames.__init__(self, Path(path).name, **selection)
        self.path, self.max_pixels = str(path), max_pixels
        self._probe()

    def _open(self) -> Any:
        container = super()._open()
        for stream in container.streams.video:
            if stream.codec_context is None:  # `_video_stream` reports it
                continue
            if stream.width * stream.height > self.max_pixels:
                container.close()
                raise VideoError(
                    f"{self.name} is {stream.width}x{stream.height}; expected at most {self.max_pixels} pixels a frame"
                )
            # Frames may be larger than the header announces. Codecs also need a margin at the edges.
            stream.codec_context.options = {"max_pixels": str(2 * self.max_pixels)}
        return container


class LiveStream(VideoFile):
    """A camera or a network stream, which can be read once. `fps` and `size` are known after the first frame."""

    repeatable = False

    def __init__(self, address: str, name: str, container_format: str | None = None, **selection: Any) -> None:
        self.container_format = container_format
        Frames.__init__(self, name, **selection)
        self.path = address

    def _open(self) -> Any:
        av = require_av()
        try:
            timeout = (OPEN_SECONDS, READ_SECONDS)
            return av.open(self.path, format=self.container_format, timeout=timeout, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{self.name} cannot be opened: {_reason(error)}") from error

    def _items(self, start: Fraction) -> Generator[tuple[Fraction, Any], None, None]:
        with self._open() as container:
            stream = _video_stream(container, self.name)
            rate = _rate(stream)
            self.fps = rate / self.every if rate else None
            yield from self._decode(container, stream)


def camera(index: int, **selection: Any) -> LiveStream:
    """Open the camera with this number through the interface of the operating system."""
    if sys.platform == "darwin":
        address, container_format = str(index), "avfoundation"
    elif sys.platform == "win32":
        address, container_format = f"video={index}", "dshow"
    else:
        address, container_format = f"/dev/video{index}", "v4l2"
    return LiveStream(address, f"camera {index}", container_format, **selection)


def _unreadable(name: str, error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"no such file: {name}")
    if isinstance(error, PermissionError):
        return VideoError(f"{name} cannot be read: permission denied")
    if isinstance(error, EOFError):
        return VideoError(f"{name} holds no frames: the file ends before the first frame")
    if isinstance(error, ValueError):  # libav: invalid data found when processing input
        return VideoError(f"{name} is not a video, or it is truncated and its frames cannot be located")
    return VideoError(f"{name} cannot be opened: {_reason(error)}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _video_stream(container: Any, name: str) -> Any:
    """The first video stream that is not the cover picture of a music file."""
    av = require_av()
    if container.format.name in TEXT_ART:
        raise VideoError(f"{name} is not a video")
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise VideoError(f"{name} has a codec that is not known: it may be damaged")
            return stream
    raise VideoError(f"{name} holds no video")


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the decoded frames, and None for each packet that does not decode."""
    av = require_av()
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            frames = [None]
        yield from frames


def _rate(stream: Any) -> Fraction | None:
    rate = stream.average_rate or stream.guessed_rate
    return Fraction(rate) if rate else None


def _length(container: Any, stream: Any) -> Fraction | None:
    """The duration in seconds that the file announces; None if it announces none."""
    if stream.duration is not None:
        return stream.duration * stream.time_base
    tag = stream.metadata.get("DURATION", "")  # Matroska: hours:minutes:seconds per stream
    parts = tag.split(":")
    if len(parts) == 3 and all(part.replace(".", "", 1).isdigit() for part in parts):
        return Fraction(parts[0]) * 3600 + Fraction(parts[1]) * 60 + Fraction(parts[2])
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, 1_000_000)
    return None


def _seek(container: Any, stream: Any, seconds: Fraction) -> bool:
    """Seek to the key frame at or before this time. Returns False if the container cannot seek."""
    av = require_av()
    try:
        container.seek(round(seconds / stream.time_base) + (stream.start_time or 0), stream=stream)
    except av.FFmpegError:
        return False
    return True


def _pixel_aspect(stream: Any, frame: Any) -> Fraction:
    """Width of a pixel of the upright frame divided by its height; 1 if the file does not say it."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if not Fraction(1, MAX_ASPECT) <= aspect <= MAX_ASPECT:
        return Fraction(1)
    return 1 / aspect if _turn(frame)[0] else aspect


def _upright(frame: Any) -> np.ndarray:
    """A decoded frame as (H, W, 3) uint8 RGB, rotated and mirrored by its display matrix."""
    # The conversion uses the frame's own colour space and range. It uses one thread: with several threads, a forked
    # process blocks forever when it frees the converter.
    image = frame.to_ndarray(format="rgb24", threads=1)
    transposed, right, down = _turn(frame)
    if transposed:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image[::down, ::right])


def _turn(frame: Any) -> tuple[bool, int, int]:
    """The display matrix of a frame: whether rows become columns, and then the steps (1 or -1) along x and y."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return False, 1, 1
    # The matrix shows a pixel at (x, y) at (a x + c y, b x + d y), up to a shift.
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(side_data), np.int32)[:5])
    transposed = abs(b) > abs(a)
    right, down = (c, b) if transposed else (a, d)
    return transposed, -1 if right < 0 else 1, -1 if down < 0 else 1
