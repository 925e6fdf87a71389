"""One video from its frames to its folder of results: instances.json, an overlay and sheet.png.

A first pass segments the video, a second pass draws the results. The score of a track is known only at the end of the
video, so drawing has to wait. The second pass decodes the frames again, so that memory does not grow with the length of
the video. A camera or a stream cannot be read twice: the first pass records its frames.
"""

import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe import __version__
from mdqe.cli import Progress, progress, say
from mdqe.errors import InputError
from mdqe.files import partial_path
from mdqe.video import overlay
from mdqe.video.images import ImageFrames
from mdqe.video.read import Frames, TimedFrame, VideoFile
from mdqe.video.write import VideoWriter

if TYPE_CHECKING:
    from mdqe.inference.views import FrameView
    from mdqe.model import MDQE
    from mdqe.results.instances import VideoInstances

IMAGES_PER_SECOND = Fraction(10)  # frame rate of the overlay of a folder of images


@dataclass(frozen=True)
class Job:
    """The options of `mdqe segment` for one video.

    Attributes:
        score_threshold: minimum score of an instance.
        show: "activation" and "queries" are drawn in addition to the instances.
        overlay: whether to write overlay.mp4, or overlay.png for a single image.
        labels: whether to draw category, track id and score of the instances.
        sheet: indices of the frames on the contact sheet; None selects twelve.
        notes: additional entries of instances.json.
    """

    score_threshold: float = 0.3
    show: Sequence[str] = ()
    overlay: bool = True
    labels: bool = True
    sheet: Sequence[int] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """The outcome of one video, which is a row of the summary.

    Attributes:
        found: the number of instances, and their categories such as "dog 2, cat 1".
        remarks: messages about the video, such as damaged frames.
        error: the reason why the video could not be opened.
    """

    name: str
    folder: Path
    status: int = 0
    frames: int = 0
    seconds: float = 0.0
    found: tuple[int, str] | None = None
    remarks: list[str] = field(default_factory=list)
    error: str = ""
    failed: bool = False
    interrupted: bool = False


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which the first Ctrl-C or SIGTERM only sets `asked`, so that results can be kept.

    The second one interrupts.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interruption":
        self._handles = threading.current_thread() is threading.main_thread()  # others receive no signals
        if self._handles:
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        if self._handles:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Restore the previous effect of the signals inside the block."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def _note(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        say("\nstopping and saving the results so far; press Ctrl-C again to discard them")


def notes(video: str, model: str, device: str, **settings: Any) -> dict[str, Any]:
    """The entries of instances.json that record how the results were made."""
    return {"source": video, "model": model, "settings": {"mdqe": __version__, "device": device, **settings}}


def segment_video(model: "MDQE", frames: Frames, folder: Path, job: Job) -> Outcome:
    """Segment a video and write instances.json, overlay.mp4 (overlay.png for one image) and sheet.png into a folder.

    Ctrl-C ends a camera or a stream normally. For a video, the outcome is `interrupted`, and instances.partial.json has
    the results so far, or overlay.partial.mp4 the frames that are drawn.

    Raises:
        OSError: a file cannot be written.
        VideoError: the frames cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recording = folder / "recording.mp4" if job.overlay and not frames.repeatable else None
    outcome = Outcome(frames.name, folder)
    views: list[FrameView] = []
    try:
        with Interruption() as interruption:
            result, outcome.seconds = _first_pass(model, frames, job, views, interruption, recording)
        outcome.frames, outcome.found = result.num_frames, (len(result), _categories(result))
        if frames.damage:
            outcome.status = 1
            outcome.remarks.append(frames.damage)
        cut = interruption.asked and frames.repeatable
        path = folder / "instances.json"
        result.save(partial_path(path) if cut else path, complete=not (cut or frames.damage), **job.notes)
        if cut:
            say(f"{partial_path(path)}: the first {result.num_frames} frames")
            raise KeyboardInterrupt
        partial_path(path).unlink(missing_ok=True)  # from an earlier run that was interrupted
        if recording is not None:
            outcome.remarks += render(VideoFile(recording), result, folder, job, views)
        elif frames.repeatable:
            outcome.remarks += render(frames, result, folder, job, views, audio_from=getattr(frames, "path", None))
        else:
            outcome.remarks.append("no contact sheet: a stream is recorded only for an overlay video")
    except KeyboardInterrupt:
        outcome.status, outcome.interrupted = 1, True
    finally:
        if recording is not None:
            recording.unlink(missing_ok=True)
            partial_path(recording).unlink(missing_ok=True)
    return outcome


def render(
    frames: Frames,
    result: "VideoInstances",
    folder: Path,
    job: Job,
    views: "Sequence[FrameView]" = (),
    audio_from: Path | None = None,
) -> list[str]:
    """Write overlay.mp4 or overlay.png, if the job asks for an overlay, and sheet.png into a folder.

    Args:
        frames: the frames of the result; a padded row or column is cut off.
        result: the instances.
        folder: an existing folder.
        job: what to draw.
        views: one for each frame, if `job.show` is not empty.
        audio_from: the media file that contains the frames.

    Returns:
        Remarks on differences from the source, one line each.

    Raises:
        OSError: a file cannot be written.
        InputError: frames of another size than the masks.
    """
    chosen = overlay.choose_frames(result.num_frames) if job.sheet is None else job.sheet
    video = job.overlay and not is_picture(frames, result)
    remarks, pictures, captions = [], [], []
    if missing := [str(i) for i in chosen if i >= result.num_frames]:
        remarks.append(f"not on the contact sheet: {', '.join(missing)}; frames are 0 to {result.num_frames - 1}")
    writer, origin = None, Fraction(0)
    with ExitStack() as stack:
        for i, frame in _drawn(frames, result, job, views, range(result.num_frames) if job.overlay else chosen):
            if video and writer is None:
                origin = frame.time or origin
                writer = VideoWriter(
                    folder / "overlay.mp4",
                    frames.fps or IMAGES_PER_SECOND,
                    pixel_aspect=frames.pixel_aspect,
                    audio_from=audio_from,
                    audio_start=origin,
                    audio_end=frames.end,
                )
                stack.enter_context(writer)
            if writer is not None:
                writer.write(frame.image, None if frame.time is None else frame.time - origin)
            elif job.overlay:
                overlay.save_png(frame.image, folder / "overlay.png")
            if i in chosen:
                pictures.append(overlay.shrink(frame.image, pixel_aspect=frames.pixel_aspect))
                captions.append(f"frame {i}" if frame.time is None else f"frame {i}, {float(frame.time):.2f} s")
        if writer is not None and frames.finish is not None:
            writer.end = frames.finish - origin
    if pictures:
        overlay.save_png(overlay.contact_sheet(pictures, captions), folder / "sheet.png")
    if writer is not None:
        remarks += writer.notes
        if frames.fps is None:
            remarks.append(f"images have no frame rate: the overlay plays at {IMAGES_PER_SECOND} frames per second")
    return remarks


def is_picture(frames: Frames, result: "VideoInstances") -> bool:
    """Whether the frames are a single image, whose overlay is an image as well."""
    return isinstance(frames, ImageFrames) and result.num_frames == 1


def _first_pass(
    model: "MDQE",
    frames: Frames,
    job: Job,
    views: "list[FrameView]",
    interruption: Interruption,
    recording: Path | None,
) -> "tuple[VideoInstances, float]":
    """Segment the frames, up to an interruption, and collect their views if the job shows them.

    Returns:
        The result, and the seconds that it took.
    """
    from mdqe.inference.whole import segment

    def images() -> Generator[np.ndarray, None, None]:
        writer, origin = None, Fraction(0)
        with ExitStack() as stack:
            for frame in stack.enter_context(closing(frames.timed())):
                if recording is not None:
                    if writer is None:  # the frame rate is known after the stream is open
                        options: dict[str, Any] = {"quality": 12, "preset": "ultrafast"}
                        writer = VideoWriter(recording, frames.fps or 25, pixel_aspect=frames.pixel_aspect, **options)
                        stack.enter_context(writer)
                        origin = frame.time or origin
                    writer.write(frame.image, None if frame.time is None else frame.time - origin)
                yield frame.image
                if interruption.asked:
                    return
            if writer is not None and frames.finish is not None:
                writer.end = frames.finish - origin

    def rename(frame: int, ids: dict[int, int]) -> None:
        found = [ids.get(track, -1) for track in views[frame].track_ids.tolist()]
        views[frame] = views[frame]._replace(track_ids=np.array(found, np.int32))

    callbacks: dict[str, Any] = {}
    if job.show:
        callbacks = {"on_frame": lambda view: views.append(_compact(view)), "on_new_ids": rename}
    with Progress(frames.name, frames.count) as bar, closing(images()) as source:
        result = segment(model, bar.follow(source), score_threshold=job.score_threshold, **callbacks)
    return replace(result, fps=None if frames.fps is None else float(frames.fps)), bar.seconds


def _compact(view: "FrameView") -> "FrameView":
    """A view in less memory, because those of all frames are kept: the activation becomes uint8."""
    activation = np.round(np.clip(view.activation, 0, 1) * 255).astype(np.uint8)
    return view._replace(
        points=view.points.astype(np.float32), track_ids=view.track_ids.astype(np.int32), activation=activation
    )


def _drawn(
    frames: Frames,
    result: "VideoInstances",
    job: Job,
    views: "Sequence[FrameView]",
    wanted: Sequence[int],
) -> Iterator[tuple[int, TimedFrame]]:
    """Yield the indices and the drawings of the wanted frames."""
    height, width = result.size
    with closing(frames.timed()) as source:
        for i, frame in enumerate(progress(source, f"drawing {frames.name}", result.num_frames)):
            if i == result.num_frames:  # the first pass was stopped here
                return
            if i not in wanted:
                continue
            found = frame.image.shape[:2]
            # Videos with odd edges are padded by a row or a column when they are encoded.
            if not (height <= found[0] <= height + 1 and width <= found[1] <= width + 1):
                given, expected = f"{found[1]}x{found[0]}", f"{width}x{height}"
                raise InputError(f"{frames.name}: frame {i} is {given}, expected {expected}, the size of the masks")
            image = frame.image[:height, :width]
            if "activation" in job.show:
                image = overlay.draw_activation(image, views[i].activation / np.float32(255))
            image = overlay.draw_result(image, result, i, labels=False)
            if "queries" in job.show:
                kept = np.isin(views[i].track_ids, result.track_ids)
                image = overlay.draw_queries(image, views[i].points, np.where(kept, views[i].track_ids, -1))
            if job.labels:
                image = overlay.draw_labels(image, result, i)  # last, so that they are readable
            yield i, frame._replace(image=image)


def _categories(result: "VideoInstances") -> str:
    """The categories of the instances with their counts, such as "dog 2, cat 1"."""
    names = Counter(result.category(i) for i in range(len(result)))
    more = f", {len(names) - 4} more categories" if len(names) > 4 else ""
    return ", ".join(f"{name} {count}" for name, count in names.most_common(4)) + more
