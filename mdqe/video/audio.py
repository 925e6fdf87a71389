"""Carrying a file's audio over into another, copied where it can be."""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

from mdqe.video.decode import require_av

KEPT = ("aac", "mp3", "mp3float")  # decoders of what browsers play in an MP4 file; the rest becomes AAC


class AudioTrack:
    """The first audio stream of a file, from a time on, on its way into an output container."""

    def __init__(self, container: Any, source: Any, output: Any, shift: Fraction, notes: list[str]) -> None:
        self.input, self.output, self.shift, self.notes = container, output, shift, notes
        self.copied = source.codec_context.name in KEPT
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
        """None where the file has no audio, or none that decodes; the latter is noted."""
        av = require_av()
        try:
            container = av.open(str(path))
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
        if start > 0:
            with suppress(av.FFmpegError):
                container.seek(int((origin + start) / source.time_base), stream=source)
        try:
            return cls(container, source, output, origin + start, notes)
        except (av.FFmpegError, ValueError) as error:
            notes.append(f"audio is not kept: {error}")
            container.close()
            return None

    def write_until(self, seconds: Fraction) -> None:
        """Write what is heard before that time of the output."""
        while self.next is not None and self.next[0] < seconds:
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
        """Flush the encoder, close the source."""
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
        """Packets to copy or frames to encode, each with its time in the output; none from before its beginning."""
        for packet in self.input.demux(source):
            if self.copied and packet.pts is None:
                continue
            for piece in [packet] if self.copied else packet.decode():
                if piece.pts is None:
                    continue
                time = piece.pts * piece.time_base - self.shift
                if time >= 0:
                    yield time, piece
