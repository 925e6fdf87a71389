"""The page of `mdqe app`, built with Gradio, and the service that segments the videos of its visitors."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mdqe.annotations.records import is_finite
from mdqe.cli import is_fixable, one_line, say
from mdqe.cli.app_guard import Calls
from mdqe.cli.app_server import require_gradio
from mdqe.cli.options import bundled_note
from mdqe.cli.segment_video import Job, notes, segment_video
from mdqe.errors import is_out_of_memory
from mdqe.results.instances import VideoInstances
from mdqe.video.read import TimedFrame, UntrustedVideo

if TYPE_CHECKING:
    from mdqe.model import MDQE

KEPT = 24 * 3600  # seconds for which uploads and results are kept
COLUMNS = ("track", "category", "score", "first frame", "last frame", "visible frames")


class Stopped(Exception):
    """The visitor has stopped the segmentation."""


class WatchedVideo(UntrustedVideo):
    """An uploaded video that reports the progress of its reading and can be stopped.

    Args:
        path: the file.
        on_frame: called for every frame with the number of the pass (1 or 2), the index of the frame, and the number of
            frames or None.
        stop: once it is set, the next frame raises `Stopped`.
    """

    def __init__(
        self, path: Path, on_frame: Callable[[int, int, int | None], None], stop: threading.Event, **selection: Any
    ) -> None:
        super().__init__(path, **selection)
        self.on_frame, self.stop, self.passes = on_frame, stop, 0

    def timed(self) -> Generator[TimedFrame, None, None]:
        """Iterate over the frames with their times."""
        self.passes += 1
        with closing(super().timed()) as frames:
            for number, frame in enumerate(frames):
                if self.stop.is_set():
                    raise Stopped
                self.on_frame(self.passes, number, self.count)
                yield frame


class Response(NamedTuple):
    """The content of the page after a request."""

    message: str
    overlay: Path | None = None
    table: Sequence[list[Any]] = ()
    file: Path | None = None


class VisitorJob(NamedTuple):
    """The segmentation that runs for a visitor, or its last one."""

    folder: Path
    stop: threading.Event


class Service:
    """Segments the videos of visitors. It keeps only the last result of each visitor.

    Args:
        models: the models by the names that visitors select; the first one is selected at the start.
        folder: the folder of the uploads; each result gets a folder in it.
    """

    def __init__(self, models: "Mapping[str, MDQE]", folder: Path) -> None:
        self.models, self.folder = dict(models), folder.resolve()
        self._jobs: dict[str, VisitorJob] = {}
        self._in_use: list[Path] = []  # entries of the folder that a running segmentation uses

    def segment(
        self, path: str | None, name: str, score_threshold: float, visitor: str, on_frame: Callable[..., None]
    ) -> Response:
        """Segment an uploaded file. Errors that a visitor can fix become the message of the response."""
        if not path:
            return Response("Choose a video first.")
        if not Path(path).resolve().is_relative_to(self.folder):
            return Response("This is not an uploaded file.")
        if name not in self.models:
            return Response(f"There is no model {name!r}.")
        self.leave(visitor)
        job = VisitorJob(Path(tempfile.mkdtemp(prefix="run-", dir=self.folder)), threading.Event())
        self._jobs[visitor] = job
        used = [job.folder, self.folder / Path(path).resolve().relative_to(self.folder).parts[0]]
        self._in_use += used
        try:
            return self._segment(Path(path), name, score_threshold, on_frame, job)
        except Stopped:
            return Response("Stopped.")
        except Exception as error:
            if not is_fixable(error):
                raise
            say(f"mdqe app: {Path(path).name}: {one_line(error)}")
            return Response(_public_message(error))
        finally:
            for one in used:
                self._in_use.remove(one)

    def _segment(
        self, path: Path, name: str, score_threshold: float, on_frame: Callable[..., None], job: VisitorJob
    ) -> Response:
        model, folder = self.models[name], job.folder
        frames = WatchedVideo(path, on_frame, job.stop, ahead=model.config.window_length)
        settings = {"shorter_edge": model.config.test_shorter_edge, "relink": model.config.relink}
        made = notes(frames.name, name, str(model.device), score_threshold=score_threshold, **settings)
        options = Job(score_threshold, notes=made)
        outcome = segment_video(model, frames, folder, options)
        result = VideoInstances.load(folder / "instances.json")
        speed = f"{outcome.frames / outcome.seconds:.1f} frames/s"
        remarks = [*outcome.remarks, bundled_note(name, model.config)]
        found = f"{len(result)} instances in {outcome.frames} frames, {speed}"
        message = "\n".join([found, *(remark for remark in remarks if remark)])
        return Response(message, folder / "overlay.mp4", track_rows(result), folder / "instances.json")

    def stop(self, visitor: str) -> None:
        """Stop the segmentation of a visitor."""
        if visitor in self._jobs:
            self._jobs[visitor].stop.set()

    def leave(self, visitor: str) -> None:
        """Stop the segmentation of a visitor and delete the result."""
        self.stop(visitor)
        if visitor in self._jobs:
            shutil.rmtree(self._jobs.pop(visitor).folder, ignore_errors=True)

    @contextmanager
    def cleaning(self, every: float = 600, kept: float = KEPT) -> Iterator[None]:
        """Delete old files every `every` seconds. At the end, stop the segmentations of all visitors."""
        ended = threading.Event()

        def clean() -> None:
            while not ended.wait(every):
                self.delete_old(kept)

        threading.Thread(target=clean, name="mdqe-app-cleaning", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            for visitor in list(self._jobs):
                self.stop(visitor)

    def delete_old(self, kept: float = KEPT) -> None:
        """Delete uploads, unfinished uploads and results that are older than `kept` seconds and not in use."""
        oldest = time.time() - kept
        for entry in list(self.folder.iterdir()):
            with suppress(FileNotFoundError):  # a visitor has left
                newest = max(path.stat().st_mtime for path in (entry, *entry.rglob("*")))
                if newest < oldest and entry not in self._in_use:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for visitor, job in list(self._jobs.items()):
            if not job.folder.exists():
                self._jobs.pop(visitor, None)


def track_rows(result: VideoInstances) -> list[list[Any]]:
    """One row per track with the values of COLUMNS, in descending order of scores."""
    rows = []
    for i in range(len(result)):
        seen = np.flatnonzero(result.present[i])
        first, last = (int(seen[0]), int(seen[-1])) if len(seen) else ("", "")
        rows.append(
            [int(result.track_ids[i]), result.category(i), round(float(result.scores[i]), 3), first, last, len(seen)]
        )
    return rows


def _public_message(error: Exception) -> str:
    """The message of an error for visitors, without details of the server."""
    if is_out_of_memory(error):
        return "There is not enough memory for this video; a smaller video may fit."
    if isinstance(error, OSError):
        return "The results could not be written."
    return one_line(error)


def calls(blocks: Any, models: Mapping[str, Any]) -> Calls:
    """The requests of the page: to segment a file with one of the models, and to stop.

    Args:
        blocks: the page.
        models: the models by their names.
    """
    numbers = {number: len(one.inputs) for number, one in blocks.fns.items() if one.targets[0][1] == "click"}

    def inputs(number: Any, values: Any) -> list[Any] | None:
        known = type(number) is int and isinstance(values, list) and numbers.get(number) == len(values)
        if not known or not values:
            return values if known else None
        file, name, score = values
        path = file.get("path") if isinstance(file, dict) else None
        if not (file is None or isinstance(path, str)) or not (isinstance(name, str) and name in models):
            return None
        if not is_finite(score) or not 0 <= score <= 1:
            return None
        return [None if path is None else {"path": path, "meta": {"_type": "gradio.FileData"}}, name, score]

    return Calls(inputs, lambda session: session in blocks._queue.pending_messages_per_session)


def _visitor(request: Any) -> str:
    """The name of the visitor who sent a request to Gradio; empty only for a call that comes from no page."""
    return str(request.session_hash or "")


def _contents(response: Response) -> tuple[Any, ...]:
    """The values of the outputs of the page."""
    import gradio as gr

    download = gr.DownloadButton(value=response.file, interactive=response.file is not None)
    return response.message, response.overlay, list(response.table), download


def page(service: Service) -> Any:
    """The page as Gradio Blocks: inputs and the status on the left, results on the right."""
    require_gradio()
    import gradio as gr

    names = list(service.models)

    def segment(
        path: str | None,
        name: str,
        score_threshold: float,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008  # Gradio replaces this default
    ) -> Iterator[tuple[Any, ...]]:
        def on_frame(passes: int, index: int, count: int | None) -> None:
            progress((index, max(count or 0, index + 1)), desc=("Segmenting", "Drawing")[passes > 1], unit="frames")

        yield _contents(Response(""))  # removes the last result from the page before its files are deleted
        progress(0, desc="Opening")
        yield _contents(service.segment(path, name, score_threshold, _visitor(request), on_frame))

    def stop(request: gr.Request) -> None:
        service.stop(_visitor(request))

    def leave(request: gr.Request) -> None:
        service.leave(_visitor(request))

    with gr.Blocks(title="MDQE", analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown(
            "# MDQE\nDetects the objects of a video, with a mask in each frame and one id per object.", elem_id="title"
        )
        with gr.Row():
            with gr.Column(scale=2):
                video = gr.Video(label="Video", sources=["upload"], include_audio=True, height=260, elem_id="upload")
                model = gr.Dropdown(names, value=names[0], label="Model", interactive=len(names) > 1)
                threshold = gr.Slider(
                    0, 1, 0.3, step=0.01, label="Score threshold", info="Minimum score of an instance"
                )
                with gr.Row():
                    start = gr.Button("Segment", variant="primary", elem_id="start")
                    end = gr.Button("Stop", elem_id="stop")
                status = gr.Textbox(label="Status", interactive=False, elem_id="status")
            with gr.Column(scale=3):
                overlay = gr.Video(label="Instances", interactive=False, elem_id="overlay")
                table = gr.Dataframe(
                    headers=list(COLUMNS),
                    label="Tracks",
                    interactive=False,
                    type="array",
                    max_height=200,
                    elem_id="tracks",
                )
                download = gr.DownloadButton("Download instances.json", interactive=False, elem_id="download")
        inputs, outputs = [video, model, threshold], [status, overlay, table, download]
        start.click(segment, inputs, outputs, concurrency_limit=1, api_visibility="private", show_progress_on=status)
        end.click(stop, concurrency_limit=None, api_visibility="private")
        blocks.unload(leave)
    return blocks.queue(max_size=20)
