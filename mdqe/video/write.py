"""Writing H.264 video that browsers play, with the timing and the audio of its source."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mdqe.errors import InputError
from mdqe.files import new_partial, regular_target
from mdqe.video import local_file, require_av

AUDIBLE = Fraction(1, 10)  # seconds; encoders add shorter ones before the first sample
COPIED_CODECS = ("aac", "mp3", "mp3float")  # browsers play them in an MP4 file; others are transcoded to AAC


class VideoWriter:
    """An MP4 file with H.264, yuv420p and BT.709, written frame by frame.

    Use it as a context manager. The file is written under a partial name ("x.partial.mp4") and renamed at the end. An
    error removes the partial file. After a KeyboardInterrupt the partial file stays and is playable.

    Args:
        path: the file, ending in .mp4.
        fps: frames per second, exact for frames that are written without a time.
        pixel_aspect: width of a pixel divided by its height. Players stretch the frames by this ratio.
        audio_from: a media file whose first audio stream is added: copied if browsers play it in MP4, otherwise
            transcoded to AAC. The file may have no audio.
        audio_start: time in seconds of that file that corresponds to the first frame.
        audio_end: time in seconds of that file at which the audio ends; None: its end, even if it is after the last
            frame.
        quality: x264's constant rate factor; a lower value means better quality and a larger file.
        preset: x264's preset.

    Attributes:
        end: seconds since the first frame at which the last frame ends; None: one frame period after its time.
        notes: one line for each difference from the source: rows or columns added to make the size even, audio that
            could not be kept.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        *,
        pixel_aspect: Fraction = Fraction(1),
        audio_from: str | Path | None = None,
        audio_start: Fraction | float = 0,
        audio_end: Fraction | float | None = None,
        quality: int = 20,
        preset: str = "veryfast",
    ) -> None:
        if fps <= 0:
            raise InputError(f"fps is {fps}; expected more than 0")
        self.path, self._target = Path(path), regular_target(path)
        self.partial = new_partial(self._target)
        self.fps = Fraction(fps).limit_denominator(1 << 20)
        self.end: Fraction | None = None
        self.notes: list[str] = []
        self._pixel_aspect = pixel_aspect
        self._audio_from, self._audio_start = audio_from, Fraction(audio_start)
        self._audio_end = None if audio_end is None else Fraction(audio_end) - self._audio_start
        self._options = {"crf": str(quality), "preset": preset}
        self._container: Any = None
        self._stream: Any = None
        self._audio: AudioTrack | None = None
        self._size: tuple[int, int] | None = None
        self._written, self._last, self._time = 0, -1, Fraction(0)
        self._held: Any = None  # the last packet, whose duration is known at the end

    def write(self, image: np.ndarray, time: Fraction | None = None) -> None:
        """Add a frame.

        Args:
            image: (H, W, 3) uint8, RGB; every frame the same size.
            time: seconds since the first frame; None: the number of frames before it divided by `fps`.

        Raises:
            OSError: the file cannot be written, for example because the disk is full. The error names the file.
        """
        av = require_av()
        with _named_errors(self.path):
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
            self._mux(self._stream.encode(frame))
            self._written += 1
            self._time = time
            if self._audio is not None:
                self._audio.write_until(time)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._finish(interrupted=kind is not None)
        except BaseException:
            self._discard()
            raise
        if kind is None and self._written:
            with _named_errors(self.path):
                self.partial.replace(self._target)
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
        self._container = av.open(local_file(self.partial), "w", format="mp4", options={"movflags": "+faststart"})
        stream = self._container.add_stream("libx264", rate=self.fps, options=self._options)
        stream.height, stream.width = even
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.max_b_frames = 0  # with them, the last packet is not the last frame, whose duration the file needs
        # A whole number of ticks per frame at the constant rate, and a fine resolution for other times.
        context.time_base = Fraction(1, self.fps.numerator * max(1, round(90_000 / self.fps.numerator)))
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16..235
        if self._pixel_aspect != 1:
            context.sample_aspect_ratio = self._pixel_aspect
        self._stream = stream
        if self._audio_from is not None:
            self._audio = AudioTrack.open(self._audio_from, self._audio_start, self._container, self.notes)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if self._held is not None:
                self._container.mux(self._held)
            self._held = packet

    def _finish(self, interrupted: bool) -> None:
        if self._container is None:
            return
        end = self._time + 1 / self.fps if self.end is None else self.end
        with _named_errors(self.path):
            self._mux(self._stream.encode(None))
            if self._held is not None:
                self._held.duration = max(1, round(end / self._held.time_base) - self._held.pts)
                self._container.mux(self._held)
            if self._audio is not None:
                self._audio.write_until(end if interrupted else self._audio_end)
                self._audio.close()
            self._container.close()

    def _discard(self) -> None:
        if self._container is not None:
            with suppress(Exception):  # the first error is reported
                self._container.close()
            with suppress(OSError):  # libav keeps a file open whose writing failed; this frees its space on the disk
                os.truncate(self.partial, 0)
        self.partial.unlink(missing_ok=True)


class AudioTrack:
    """Copies or transcodes the first audio stream of a file, from a start time on, into an output container."""

    def __init__(self, container: Any, source: Any, output: Any, shift: Fraction, notes: list[str]) -> None:
        self.input, self.output, self.shift, self.notes = container, output, shift, notes
        self.copied = source.codec_context.name in COPIED_CODECS
        if self.copied:
            self.stream = output.add_stream_from_template(source)
        else:
            rate = source.codec_context.sample_rate
            self.stream = output.add_stream("aac", rate=rate if 8000 <= rate <= 48000 else 48000)
            self.stream.layout = "mono" if source.codec_context.channels == 1 else "stereo"
        self.pieces = self._pieces(source)
        self.next: tuple[Fraction, Any] | None = self._advance()

    @classmethod
    def open(cls, path: str | Path, start: Fraction, output: Any, notes: list[str]) -> "AudioTrack | None":
        """Returns None if the file has no audio or none that decodes. The second case adds a note."""
        av = require_av()
        try:
            container = av.open(local_file(path), metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            notes.append(f"audio is not kept: {error}")
            return None
        if not container.streams.audio:
            container.close()
            return None
        source = container.streams.audio[0]
        origin = Fraction(0)
        for video in container.streams.video[:1]:
            origin = (video.start_time or 0) * video.time_base
            early = origin - (source.start_time or 0) * source.time_base
            if start == 0 and early > AUDIBLE:
                notes.append(f"the first {float(early):.2f} s of audio, before the first frame, are not kept")
        if start > 0:
            with suppress(av.FFmpegError):
                container.seek(int((origin + start) / source.time_base), stream=source)
        try:
            return cls(container, source, output, origin + start, notes)
        except (av.FFmpegError, ValueError) as error:
            notes.append(f"audio is not kept: {error}")
            container.close()
            return None

    def write_until(self, seconds: Fraction | None) -> None:
        """Write the audio up to this time of the output; None: up to the end of the audio."""
        while self.next is not None and (seconds is None or self.next[0] < seconds):
            time, piece = self.next
            if self.copied:
                offset = round(self.shift / piece.time_base)
                piece.pts, piece.dts = piece.pts - offset, (piece.dts if piece.dts is not None else piece.pts) - offset
                piece.stream = self.stream
                self.output.mux(piece)
            else:
                piece.time_base = Fraction(1, piece.sample_rate)
                piece.pts = round(time * piece.sample_rate)
                self.output.mux(self.stream.encode(piece))
            self.next = self._advance()

    def close(self) -> None:
        """Flush the encoder and close the source."""
        if not self.copied:
            self.output.mux(self.stream.encode(None))
        self.input.close()

    def _advance(self) -> tuple[Fraction, Any] | None:
        av = require_av()
        try:
            return next(self.pieces, None)
        except av.FFmpegError as error:
            self.notes.append(f"audio stops early: {getattr(error, 'strerror', error)}")
            return None

    def _pieces(self, source: Any) -> Iterator[tuple[Fraction, Any]]:
        """Yield packets to copy or frames to encode with their times in the output, which are 0 or more."""
        for packet in self.input.demux(source):
            if self.copied and packet.pts is None:
                continue
            for piece in [packet] if self.copied else packet.decode():
                if piece.pts is None:
                    continue
                time = piece.pts * piece.time_base - self.shift
                if time >= 0:
                    yield time, piece


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Convert errors of libav to OSErrors that name the file."""
    av = require_av()
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(getattr(error, "errno", None), reason, str(path)) from error
