"""The page of `mdqe app`, made with Gradio."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mdqe.cli import REPORTED_ERRORS, one_line, say
from mdqe.cli.app_server import require_gradio
from mdqe.cli.segment_list import notes
from mdqe.cli.segment_video import Job, segment_video
from mdqe.errors import is_out_of_memory
from mdqe.results.instances import VideoInstances
from mdqe.video.frames import TimedFrame
from mdqe.video.untrusted import UntrustedVideo

if TYPE_CHECKING:
    from mdqe.model import MDQE

COLUMNS = ("track", "category", "score", "first frame", "last frame", "frames seen")


class Stopped(Exception):
    """The visitor wants no more of it."""


class WatchedVideo(UntrustedVideo):
    """An uploaded video that tells how far its reading is, and can be stopped.

    Args:
        path: of the file.
        tell: called at every frame with how often the video was begun, the frame's number, and how many there are.
        stop: when it is set, the next frame raises `Stopped`.
    """

    def __init__(
        self, path: Path, tell: Callable[[int, int, int | None], None], stop: threading.Event, **selection: Any
    ) -> None:
        super().__init__(path, **selection)
        self.tell, self.stop, self.begun = tell, stop, 0

    def timed(self) -> Generator[TimedFrame, None, None]:
        """The frames with their times."""
        self.begun += 1
        with closing(super().timed()) as frames:
            for number, frame in enumerate(frames):
                if self.stop.is_set():
                    raise Stopped
                self.tell(self.begun, number, self.count)
                yield frame


class Shown(NamedTuple):
    """What the page shows of a video."""

    message: str
    overlay: Path | None = None
    table: Sequence[list[Any]] = ()
    file: Path | None = None


def track_rows(result: VideoInstances) -> list[list[Any]]:
    """A row per track, best first, as in COLUMNS."""
    rows = []
    for i in range(len(result)):
        seen = np.flatnonzero(result.present[i])
        first, last = (int(seen[0]), int(seen[-1])) if len(seen) else ("", "")
        rows.append(
            [int(result.track_ids[i]), result.category(i), round(float(result.scores[i]), 3), first, last, len(seen)]
        )
    return rows


def _told(error: Exception) -> str:
    """What a visitor is told: nothing of this machine."""
    if is_out_of_memory(error):
        return "There is not enough memory for this video; a smaller one may do."
    if isinstance(error, OSError):
        return "The results could not be written."
    return one_line(error)


class Visit(NamedTuple):
    """What is done for a visitor."""

    folder: Path
    stop: threading.Event


class Desk:
    """Takes visitors' videos; of each visitor it keeps the last result alone.

    Args:
        models: by the names that visitors choose from; the first is chosen at the start.
        folder: where uploads are; results are made in folders in it.
    """

    def __init__(self, models: "Mapping[str, MDQE]", folder: Path) -> None:
        self.models, self.folder = dict(models), folder.resolve()
        self._visits: dict[str, Visit] = {}

    def segment(
        self, path: str | None, name: str, score_threshold: float, visitor: str, tell: Callable[..., None]
    ) -> Shown:
        """Segment an uploaded file; what is wrong with it is the message."""
        if not path:
            return Shown("Choose a video first.")
        if not Path(path).resolve().is_relative_to(self.folder):
            return Shown("That is not an uploaded file.")
        if name not in self.models:
            return Shown(f"There is no model {name!r} here.")
        self.leave(visitor)
        visit = self._visits[visitor] = Visit(Path(tempfile.mkdtemp(prefix="run-", dir=self.folder)), threading.Event())
        try:
            return self._segment(Path(path), name, score_threshold, tell, visit)
        except Stopped:
            return Shown("Stopped.")
        except Exception as error:
            if not isinstance(error, REPORTED_ERRORS) and not is_out_of_memory(error):
                raise
            say(f"mdqe app: {Path(path).name}: {one_line(error)}")
            return Shown(_told(error))

    def _segment(self, path: Path, name: str, score_threshold: float, tell: Callable[..., None], visit: Visit) -> Shown:
        model, folder = self.models[name], visit.folder
        frames = WatchedVideo(path, tell, visit.stop, ahead=model.config.window_length)
        settings = {"score_threshold": score_threshold, "shorter_edge": model.config.test_shorter_edge}
        job = Job(score_threshold, notes=notes(frames.name, name, str(model.device), **settings))
        outcome = segment_video(model, frames, folder, job)
        result = VideoInstances.load(folder / "instances.json")
        speed = f"{outcome.frames / outcome.seconds:.1f} frames/s"
        message = "\n".join([f"{len(result)} instances in {outcome.frames} frames, {speed}", *outcome.remarks])
        return Shown(message, folder / "overlay.mp4", track_rows(result), folder / "instances.json")

    def stop(self, visitor: str) -> None:
        """End what is done for a visitor."""
        if visitor in self._visits:
            self._visits[visitor].stop.set()

    def leave(self, visitor: str) -> None:
        """End it, and remove what was made."""
        self.stop(visitor)
        if visitor in self._visits:
            shutil.rmtree(self._visits.pop(visitor).folder, ignore_errors=True)

    def stop_all(self) -> None:
        """End all that is done."""
        for visitor in list(self._visits):
            self.stop(visitor)


def page(desk: Desk) -> Any:
    """Gradio's Blocks: what a visitor gives on the left, what was found on the right."""
    require_gradio()
    import gradio as gr

    names = list(desk.models)

    def visitor(request: gr.Request) -> str:
        name: str = request.session_hash or ""  # empty only for a call that came from no page
        return name

    def segment(
        path: str | None,
        name: str,
        score_threshold: float,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008  # Gradio's way to hand it in
    ) -> Iterator[tuple[Any, ...]]:
        def tell(begun: int, number: int, count: int | None) -> None:
            progress((number, max(count or 0, number + 1)), desc=("Segmenting", "Drawing")[begun > 1], unit="frames")

        yield answer(Shown(""))  # the last result leaves the page before its files go
        progress(0, desc="Opening")
        yield answer(desk.segment(path, name, score_threshold, visitor(request), tell))

    def answer(shown: Shown) -> tuple[Any, ...]:
        download = gr.DownloadButton(value=shown.file, interactive=shown.file is not None)
        return shown.message, shown.overlay, list(shown.table), download

    def stop(request: gr.Request) -> None:
        desk.stop(visitor(request))

    def leave(request: gr.Request) -> None:
        desk.leave(visitor(request))

    with gr.Blocks(title="MDQE", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        gr.Markdown("# MDQE\nEvery object of a video: a mask in each frame, and one identity throughout.")
        with gr.Row():
            with gr.Column(scale=2):
                video = gr.Video(label="Video", sources=["upload"], include_audio=True, height=260, elem_id="upload")
                model = gr.Dropdown(names, value=names[0], label="Model", interactive=len(names) > 1)
                threshold = gr.Slider(0, 1, 0.3, step=0.01, label="Score threshold", info="Least score of an instance")
                with gr.Row():
                    start = gr.Button("Segment", variant="primary", elem_id="start")
                    end = gr.Button("Stop", elem_id="stop")
            with gr.Column(scale=3):
                overlay = gr.Video(label="Instances", interactive=False, height=360, elem_id="overlay")
                status = gr.Textbox(label="Status", interactive=False, elem_id="status")
                table = gr.Dataframe(
                    headers=list(COLUMNS), label="Tracks", interactive=False, type="array", elem_id="tracks"
                )
                download = gr.DownloadButton("Download instances.json", interactive=False, elem_id="download")
        given, shown = [video, model, threshold], [status, overlay, table, download]
        start.click(segment, given, shown, concurrency_limit=1, api_visibility="private", show_progress_on=status)
        end.click(stop, concurrency_limit=None, api_visibility="private")
        blocks.unload(leave)
    return blocks.queue(max_size=20)
