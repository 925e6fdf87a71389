"""One video on its way through the model to its folder of results."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe.atomic import partial_path
from mdqe.cli import say
from mdqe.cli.progress import shown
from mdqe.cli.render import View, render
from mdqe.video.decode import VideoFile
from mdqe.video.read import Frames
from mdqe.video.write import VideoWriter

if TYPE_CHECKING:
    from mdqe.model import MDQE
    from mdqe.results.instances import VideoInstances


@dataclass(frozen=True)
class Job:
    """What is wanted of a video: see the options of `mdqe segment`."""

    score_threshold: float = 0.3
    show: Sequence[str] = ()
    video: bool = True
    sheet: Sequence[int] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    """Further entries of instances.json."""


@dataclass
class Outcome:
    """What became of a video: a row of the summary."""

    name: str
    folder: Path
    status: int = 0
    frames: int = 0
    seconds: float = 0.0
    found: str = ""
    remarks: list[str] = field(default_factory=list)
    error: str = ""
    interrupted: bool = False

    @property
    def results(self) -> str:
        """Where they are, or why there are none."""
        if self.status == 2:
            return "failed"
        kept = [str(self.folder)] if self.frames else []
        return ", ".join(kept + ["interrupted"] * self.interrupted)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a video; it carries what became of it until then."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Interruption:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None  # what Ctrl-C did

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Within it Ctrl-C does what it did before; between its end and what is around it none gets lost."""
        if self._before is None:
            yield
            return
        noting = signal.signal(signal.SIGINT, self._before)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, noting)


@contextmanager
def first_interrupt_asks() -> Iterator[Interruption]:
    """Within it the first Ctrl-C is noted, so that what was found so far can be kept; a second one interrupts."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def note(number: int, frame: Any) -> None:
        if interruption.asked:
            raise KeyboardInterrupt
        interruption.asked = True
        say("\nstopping here and keeping what was found; Ctrl-C again to drop it")

    interruption._before = signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, interruption._before)


def segment_video(model: "MDQE", frames: Frames, folder: Path, job: Job) -> Outcome:
    """Segment, write instances.json, overlay.mp4 and sheet.png into the folder.

    Ctrl-C ends a camera or stream; of a video it leaves instances.partial.json, or overlay.partial.mp4 when it comes
    while drawing.

    Raises:
        Interrupted: by Ctrl-C.
        OSError: a file cannot be written.
        ValueError: the frames cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recording = folder / "recording.mp4" if job.video and not frames.repeatable else None
    outcome = Outcome(frames.name, folder)
    start = time.monotonic()
    views: list[View] = []
    try:
        with first_interrupt_asks() as interruption:
            result = _find(model, frames, job, views, interruption, recording)
        outcome.seconds = time.monotonic() - start
        outcome.frames, outcome.found = result.num_frames, _count(result)
        if frames.damage:
            outcome.status = 1
            outcome.remarks.append(frames.damage)
        cut = interruption.asked and frames.repeatable
        path = folder / "instances.json"
        result.save(partial_path(path) if cut else path, complete=not (cut or frames.damage), **job.notes)
        if cut:
            say(f"{partial_path(path)}: the first {result.num_frames} frames")
            raise KeyboardInterrupt
        partial_path(path).unlink(missing_ok=True)  # of an interrupted run before
        if frames.repeatable or recording is not None:
            again, audio = (
                (frames, getattr(frames, "path", None)) if recording is None else (VideoFile(recording), None)
            )
            wanted: dict[str, Any] = {"show": job.show, "video": job.video, "sheet": job.sheet}
            outcome.remarks += render(again, result, folder, views=views, audio_from=audio, **wanted)
        else:
            outcome.remarks.append("no contact sheet: frames that come once are kept only for an overlay video")
    except KeyboardInterrupt:
        outcome.status, outcome.interrupted = 1, True
        raise Interrupted(outcome) from None
    finally:
        if recording is not None:
            recording.unlink(missing_ok=True)
            partial_path(recording).unlink(missing_ok=True)
    return outcome


def _find(
    model: "MDQE",
    frames: Frames,
    job: Job,
    views: list[View],
    interruption: Interruption,
    recording: Path | None,
) -> "VideoInstances":
    """The first pass. Frames end early when an interruption was asked for; those before it give a whole result."""
    from mdqe.inference.session import segment

    def images() -> Iterator[np.ndarray]:
        origin = writer = None
        with ExitStack() as stack:
            for frame in stack.enter_context(closing(frames.timed())):
                if recording is not None:
                    if writer is None:  # the rate is known once the stream is open
                        writer = VideoWriter(recording, frames.fps or 25, quality=12, preset="ultrafast")
                        stack.enter_context(writer)
                        origin = frame.time
                    writer.write(frame.image, None if origin is None or frame.time is None else frame.time - origin)
                yield frame.image
                if interruption.asked:
                    return

    on_frame = (lambda view: views.append(View.of(view))) if job.show else None
    result = segment(
        model,
        shown(images(), frames.name, frames.count),
        score_threshold=job.score_threshold,
        on_frame=on_frame,
    )
    return replace(result, fps=None if frames.fps is None else float(frames.fps))


def _count(result: "VideoInstances") -> str:
    """Such as "3: 2 dog, 1 cat"."""
    names = Counter(result.category(i) for i in range(len(result)))
    listed = ", ".join(f"{number} {name}" for name, number in names.most_common(4))
    more = f", {len(names) - 4} other kinds" if len(names) > 4 else ""
    return f"{len(result)}" + (f": {listed}{more}" if listed else "")
