"""Writing H.264 video that a browser plays, with the source's timing and audio."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mdqe.atomic import partial_path
from mdqe.errors import InputError
from mdqe.video.audio import AudioTrack
from mdqe.video.decode import require_av


class VideoWriter:
    """An MP4 file of H.264, yuv420p, BT.709, written frame by frame.

    Used as a context: the file is written beside its place ("x.partial.mp4") and takes its name at the end. After an
    error it is removed; after a KeyboardInterrupt it stays, playable, under its partial name.

    Args:
        path: the file, ending in .mp4.
        fps: frames per second; exact where a frame comes without a time.
        audio_from: a media file whose first audio stream is kept: copied where browsers play it in MP4, else
            transcoded to AAC. A file without audio is fine.
        audio_start: seconds of that file at which the first frame stands.
        quality: x264's constant rate factor; less is better and larger.
        preset: x264's preset.

    Attributes:
        notes: one line for each thing that is not as in the source: rows or columns added to reach even edges, audio
            that could not be kept.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        *,
        audio_from: str | Path | None = None,
        audio_start: Fraction | float = 0,
        quality: int = 20,
        preset: str = "veryfast",
    ) -> None:
        if fps <= 0:
            raise InputError(f"fps is {fps}; expected more than 0")
        self.path, self.partial = Path(path), partial_path(path)
        self.fps = Fraction(fps).limit_denominator(1 << 20)
        self.notes: list[str] = []
        self._audio_from, self._audio_start = audio_from, Fraction(audio_start)
        self._options = {"crf": str(quality), "preset": preset}
        self._container: Any = None
        self._stream: Any = None
        self._audio: AudioTrack | None = None
        self._size: tuple[int, int] | None = None
        self._written, self._last, self._end = 0, -1, Fraction(0)

    def write(self, image: np.ndarray, time: Fraction | None = None) -> None:
        """Add a frame.

        Args:
            image: (H, W, 3) uint8, RGB; every frame the same size.
            time: seconds since the first frame; without it, by `fps`.

        Raises:
            OSError: the file cannot be written, because the disk is full for example; names the file.
        """
        av = require_av()
        with self._named_errors():
            if self._container is None:
                self._begin(image.shape[:2])
            if image.shape[:2] != self._size:
                raise InputError(f"a frame is {image.shape[:2]}; the first was {self._size}")
            height, width = self._size
            if height % 2 or width % 2:
                image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            time = self._written / self.fps if time is None else time
            frame.time_base = self._stream.codec_context.time_base
            frame.pts = self._last = max(self._last + 1, round(time / frame.time_base))
            self._container.mux(self._stream.encode(frame))
            self._written += 1
            self._end = time + 1 / self.fps
            if self._audio is not None:
                self._audio.write_until(time)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._finish()
        except BaseException:
            self._discard()
            raise
        if kind is None and self._written:
            self.partial.replace(self.path)
        elif kind is not None and not issubclass(kind, KeyboardInterrupt):
            self._discard()

    def _begin(self, size: tuple[int, int]) -> None:
        av = require_av()
        self._size = height, width = size
        even = height + height % 2, width + width % 2
        if even != size:
            self.notes.append(
                f"the video is padded from {width}x{height} to {even[1]}x{even[0]}: H.264 needs even edges"
            )
        self._container = av.open(str(self.partial), "w", format="mp4", options={"movflags": "+faststart"})
        stream = self._container.add_stream("libx264", rate=self.fps, options=self._options)
        stream.height, stream.width = even
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        # Whole ticks per frame at a constant rate, and fine enough for frames that come at any time.
        context.time_base = Fraction(1, self.fps.numerator * max(1, round(90_000 / self.fps.numerator)))
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16..235
        self._stream = stream
        if self._audio_from is not None:
            self._audio = AudioTrack.open(self._audio_from, self._audio_start, self._container, self.notes)

    def _finish(self) -> None:
        if self._container is None:
            return
        with self._named_errors():
            self._container.mux(self._stream.encode(None))
            if self._audio is not None:
                self._audio.write_until(self._end)
                self._audio.close()
            self._container.close()

    def _discard(self) -> None:
        if self._container is not None:
            with suppress(Exception):  # the error that led here is the one to report
                self._container.close()
        self.partial.unlink(missing_ok=True)

    def _named_errors(self) -> "_NamedErrors":
        return _NamedErrors(self.path)


class _NamedErrors:
    """Turns libav's errors into OSErrors that name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        av = require_av()
        if isinstance(error, av.FFmpegError | OSError):
            reason = getattr(error, "strerror", None) or str(error)
            raise OSError(getattr(error, "errno", None), reason, str(self.path)) from error
