"""Media files that are written with PyAV only, without the library."""

import struct
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(number: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A frame that shows its number (a bright bar at column 2 * number) and its orientation (a red top left corner)."""
    height, width = size
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, 2 * number : 2 * number + 4] = 230
    image[: height // 3, : width // 3] = (220, 30, 30)
    image[-height // 4 :, -width // 4 :] = (30, 60, 210)
    return image


def number_of(image: np.ndarray) -> int:
    """The number in a frame of `picture`, read from the middle row."""
    middle = image[image.shape[0] // 2, :, 1].astype(int)
    return round((np.flatnonzero(middle > 135).mean() - 1.5) / 2)


def reading_threads() -> list[str]:
    """The threads that read frames in advance."""
    return [thread.name for thread in threading.enumerate() if thread.name == "mdqe-read-ahead"]


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 20,
    size: tuple[int, int] = (64, 96),
    pix_fmt: str = "yuv420p",
    rate: Fraction | int = 25,
    times: list[float] | None = None,
    audio: str | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    pixel_aspect: Fraction | None = None,
    last: float | None = None,
    seconds: float | None = None,
) -> Path:
    """Write a file of `picture`s.

    `times` are those of the frames in seconds, `last` is the duration of the last one, `seconds` that of the audio.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=codec_options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = 8
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if last is not None:
            stream.codec_context.max_b_frames = 0  # the last packet is the last frame
        sound = container.add_stream(audio, rate=44100, layout="mono") if audio else None
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, size), format="rgb24").reformat(format=pix_fmt)
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), round(times[i] * 1000)
            container.mux(stream.encode(frame))
        packets = stream.encode(None)
        if last is not None:
            packets[-1].duration = round(last / packets[-1].time_base)
        container.mux(packets)
        if sound is not None:
            _add_tone(container, sound, seconds=frames / float(rate) if seconds is None else seconds)
    return path


def _add_tone(container, stream, seconds: float) -> None:
    """A tone whose pitch rises by 200 Hz at every tenth of a second, so that a position in it can be recognised."""
    rate = 44100
    time = np.arange(int(seconds * rate)) / rate
    pitch = 400 + 200 * np.floor(time * 10)
    wave = (0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)).astype(np.float32)
    for start in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, start
        frame.time_base = Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def turn(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Patch the display matrix in the track header of an MP4 file."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd")
    assert data[header + 4] == 0  # version: 32-bit times
    matrix = header + 4 + 4 + 5 * 4 + 2 * 4 + 4 * 2  # past flags, times and ids, reserved, layer to volume
    assert struct.unpack_from(">i", data, matrix) == (65536,)
    struct.pack_into(">9i", data, matrix, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
