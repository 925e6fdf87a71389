"""The second pass over a video, which draws what the first one found: overlay video and contact sheet.

The score of a track is known only when the video is over, so nothing can be drawn before. Drawing while decoding anew
takes no memory that grows with the video. A camera or stream cannot be read twice: its frames are recorded during the
first pass, see `segment_video`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdqe.cli.progress import shown
from mdqe.video.overlay import draw_activation, draw_labels, draw_queries, draw_result
from mdqe.video.read import Frames
from mdqe.video.sheet import choose_frames, contact_sheet, save_png, shrink
from mdqe.video.write import VideoWriter

if TYPE_CHECKING:
    from mdqe.inference.views import FrameView
    from mdqe.results.instances import VideoInstances

IMAGES_PER_SECOND = Fraction(10)  # of an overlay whose source, a folder of images, has no rate


@dataclass(frozen=True)
class View:
    """A `FrameView` in few bytes, to be kept for every frame until the second pass."""

    points: np.ndarray
    track_ids: np.ndarray
    activation: np.ndarray

    @classmethod
    def of(cls, view: "FrameView") -> "View":
        activation = np.round(np.clip(view.activation, 0, 1) * 255).astype(np.uint8)
        return cls(view.points.astype(np.float32), view.track_ids.astype(np.int32), activation)

    def draw_activation(self, image: np.ndarray) -> np.ndarray:
        """The class-activation map under the image."""
        return draw_activation(image, self.activation / np.float32(255))

    def draw_queries(self, image: np.ndarray, track_ids: np.ndarray) -> np.ndarray:
        """The query positions on the image, in colour those that led to one of `track_ids`."""
        known = np.where(np.isin(self.track_ids, track_ids), self.track_ids, -1)
        return draw_queries(image, self.points, known)


def render(
    frames: Frames,
    result: "VideoInstances",
    folder: Path,
    *,
    views: Sequence[View] = (),
    show: Sequence[str] = (),
    video: bool = True,
    sheet: Sequence[int] | None = None,
    audio_from: Path | None = None,
) -> list[str]:
    """Write overlay.mp4 (unless `video` is False) and sheet.png into the folder.

    Args:
        frames: those of the result, once more; larger ones are cropped to its size.
        views: of every frame, where `show` asks for them.
        show: "activation" and "queries", to be drawn besides the instances.
        sheet: numbers of the frames on the contact sheet; None chooses.
        audio_from: the media file that the frames are from.

    Returns:
        What is not as in the source, a line each.

    Raises:
        OSError: a file cannot be written.
    """
    chosen = choose_frames(result.num_frames) if sheet is None else sheet
    start, fps = frames.start or 0, frames.fps or IMAGES_PER_SECOND
    notes, pictures, captions = [], [], []
    if missing := [str(i) for i in chosen if i >= result.num_frames]:
        notes.append(f"not on the contact sheet: {', '.join(missing)}; frames are 0 to {result.num_frames - 1}")
    with ExitStack() as stack:
        writer = None
        if video:
            writer = VideoWriter(folder / "overlay.mp4", fps, audio_from=audio_from, audio_start=start)
            stack.enter_context(writer)
        for i, time, image in _drawn(frames, result, views, show, None if video else chosen):
            if writer is not None:
                writer.write(image, time)
            if i in chosen:
                pictures.append(shrink(image))
                captions.append(f"frame {i}" if time is None else f"frame {i}, {float(time + start):.2f} s")
    if pictures:
        save_png(contact_sheet(pictures, captions), folder / "sheet.png")
    if writer is not None:
        notes += writer.notes
        if frames.fps is None:
            notes.append(f"images have no frame rate: the overlay plays {IMAGES_PER_SECOND} in a second")
    return notes


def _drawn(
    frames: Frames,
    result: "VideoInstances",
    views: Sequence[View],
    show: Sequence[str],
    wanted: Sequence[int] | None,
) -> Iterator[tuple[int, Fraction | None, np.ndarray]]:
    """Number, seconds since the first frame, and drawing of every frame, or of those that are wanted alone."""
    height, width = result.size
    origin = None
    with closing(frames.timed()) as source:
        for i, frame in enumerate(shown(source, f"drawing {frames.name}", result.num_frames)):
            if i == result.num_frames:  # the first pass was stopped here
                return
            origin = frame.time if origin is None else origin
            if wanted is not None and i not in wanted:
                continue
            image = frame.image[:height, :width]
            if "activation" in show:
                image = views[i].draw_activation(image)
            image = draw_result(image, result, i, labels=False)
            if "queries" in show:
                image = views[i].draw_queries(image, result.track_ids)
            image = draw_labels(image, result, i)  # last: it is to be read
            yield i, None if frame.time is None or origin is None else frame.time - origin, image
