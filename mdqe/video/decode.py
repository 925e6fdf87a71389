"""Video files, cameras and network streams as frames, decoded with PyAV."""

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mdqe.errors import DependencyError
from mdqe.video.frames import Frames, VideoError

OPEN_SECONDS, READ_SECONDS = 20.0, 60.0  # how long a network stream may be silent
TEXT_ART = ("tty", "bin", "xbin", "adf", "idf")  # libav shows any text of some file names as a terminal would


def require_av() -> Any:
    """PyAV, or an ImportError that says how to get it."""
    try:
        import av
    except ImportError:
        raise DependencyError("reading and writing video needs PyAV: pip install 'mdqe[video]'") from None
    return av


class VideoFile(Frames):
    """A video file in any container and codec that PyAV decodes.

    Frames are turned and mirrored as the file's display matrix says and converted to 8-bit RGB; transparency is
    ignored. Times come from the file, so a variable frame rate is kept. Frames that cannot be decoded are skipped, and
    `damage` then says so; it also says when the file ends before the length it announces.
    """

    container_options: ClassVar[dict[str, str]] = {}
    """Of libav, for opening the file."""

    def __init__(self, path: str | Path, **selection: Any) -> None:
        super().__init__(str(path), **selection)
        self.path = str(path)
        self._probe()

    def _open(self) -> Any:
        av = require_av()
        try:
            return av.open(self.path, options=self.container_options)
        except (av.FFmpegError, OSError) as error:
            raise _unreadable(self.name, error) from error

    def _probe(self) -> None:
        """Size, rate and count, from the header and the first frame."""
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
        with self._open() as container:  # from the beginning: nothing to seek, or it led past the time
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
                damaged += bool(frame.is_corrupt)
                yield time, frame
        except av.FFmpegError as error:
            self.damage = f"reading stopped at {float(reached):.2f} s: {_reason(error)}"
            return
        length = _length(container, stream)
        if length is not None and length - reached > max(Fraction(1, 10), 2 * period):
            self.damage = f"the file is cut off: it ends after {float(reached):.2f} of {float(length):.2f} s"
        elif damaged:
            self.damage = f"damaged frames: {damaged}"

    def _load(self, item: Any) -> np.ndarray:
        return _upright(item)


class LiveStream(VideoFile):
    """A camera or a network stream: its frames come once. `fps` and `size` are known after the first of them."""

    repeatable = False

    def __init__(self, address: str, name: str, container_format: str | None = None, **selection: Any) -> None:
        self.container_format = container_format
        Frames.__init__(self, name, **selection)
        self.path = address

    def _open(self) -> Any:
        av = require_av()
        try:
            return av.open(self.path, format=self.container_format, timeout=(OPEN_SECONDS, READ_SECONDS))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{self.name} cannot be opened: {_reason(error)}") from error

    def _items(self, start: Fraction) -> Generator[tuple[Fraction, Any], None, None]:
        with self._open() as container:
            stream = _video_stream(container, self.name)
            rate = _rate(stream)
            self.fps = rate / self.every if rate else None
            yield from self._decode(container, stream)


def camera(index: int, **selection: Any) -> LiveStream:
    """The camera with that number, by the operating system's own interface."""
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
        return VideoError(f"{name} holds no frames: it ends before the first")
    if isinstance(error, ValueError):  # libav: invalid data found when processing input
        return VideoError(f"{name} is not a video, or it is cut off so that its frames cannot be found")
    return VideoError(f"{name} cannot be opened: {_reason(error)}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _video_stream(container: Any, name: str) -> Any:
    """The first stream of moving pictures; the cover picture of a music file is none."""
    av = require_av()
    if container.format.name in TEXT_ART:
        raise VideoError(f"{name} is not a video")
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise VideoError(f"{name} holds no video")


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames that decode, and None for each packet that does not."""
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
    """Seconds of video that the file announces, None where it announces nothing."""
    if stream.duration is not None:
        return stream.duration * stream.time_base
    tag = stream.metadata.get("DURATION", "")  # Matroska: hours:minutes:seconds of each stream
    parts = tag.split(":")
    if len(parts) == 3 and all(part.replace(".", "", 1).isdigit() for part in parts):
        return Fraction(parts[0]) * 3600 + Fraction(parts[1]) * 60 + Fraction(parts[2])
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, 1_000_000)
    return None


def _seek(container: Any, stream: Any, seconds: Fraction) -> bool:
    """Go to the key frame at or before that time; False where the container cannot."""
    av = require_av()
    try:
        container.seek(round(seconds / stream.time_base) + (stream.start_time or 0), stream=stream)
    except av.FFmpegError:
        return False
    return True


def _upright(frame: Any) -> np.ndarray:
    """A decoded frame as (H, W, 3) uint8 RGB, turned and mirrored as its display matrix says."""
    # By the frame's own colour space and range. On one thread: of several, a forked process waits for ever when it
    # frees what the frame left.
    image = frame.to_ndarray(format="rgb24", threads=1)
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return image
    # Rows of the matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift.
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5]
    if abs(int(b)) > abs(int(a)):
        image, right, down = image.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    image = image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    return np.ascontiguousarray(image)
