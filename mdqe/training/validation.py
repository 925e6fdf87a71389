"""How good a model is so far: it segments a few videos that it is not trained on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe.data.scene import Difficulty
from mdqe.data.synthetic import draw_video
from mdqe.data.synthetic_files import document_of
from mdqe.distributed import gather, rank, ranks
from mdqe.errors import InputError
from mdqe.training.sources import find_annotations

if TYPE_CHECKING:
    from mdqe.model import MDQE
    from mdqe.results.instances import VideoInstances

Frames = Callable[[], Iterable[np.ndarray]]
"""Gives the frames of a video, (H, W, 3) uint8 each, from the first one every time it is called."""

PICTURED = 4  # videos
SHOWN_SCORE = 0.3


class Validation:
    """Segments videos and compares the results with what is known of them; draws the first few.

    Called with a model and the number of steps done, by every process: each takes its share of the videos. Numbers are
    those of `mdqe.evaluation.evaluate`, by the benchmark protocol. Pictures are FOLDER/STEP-VIDEO.png.

    Args:
        document: videos, categories and annotations in the form of YouTube-VIS.
        frames: of each of its videos.
        folder: of the pictures; None: none.
        say: takes a line of talk.

    Raises:
        ValueError: not as many frames as videos, or no videos.
    """

    def __init__(
        self,
        document: dict[str, Any],
        frames: Sequence[Frames],
        folder: Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        if len(document["videos"]) != len(frames) or not frames:
            raise InputError(
                f"{len(document['videos'])} videos and frames of {len(frames)}, expected as many, at least 1"
            )
        self.document, self.frames = document, list(frames)
        self.folder = folder
        if folder is not None and find_spec("PIL") is None:
            say("validation draws no pictures; for them: pip install 'mdqe[video]'")
            self.folder = None

    def __call__(self, model: MDQE, step: int) -> dict[str, float]:
        """The numbers after `step` steps; {} in all processes but the first."""
        from mdqe.evaluation import evaluate

        results: list[dict[str, Any]] = []
        for number in range(rank(), len(self.frames), ranks()):
            result = model.segment(self.frames[number](), multi_label=True)
            results += result.to_ytvis(self.document["videos"][number]["id"])
            if self.folder is not None and number < PICTURED:
                self._draw(self.folder, number, result, step)
        everyone = [one for part in gather(results) for one in part]
        if rank() != 0:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there are no results is no surprise at the start
            numbers = evaluate(self.document, everyone)
        return {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}

    def _draw(self, folder: Path, number: int, result: VideoInstances, step: int) -> None:
        from mdqe.video.overlay import draw_result
        from mdqe.video.sheet import choose_frames, contact_sheet, save_png, shrink

        shown = best_classes(result).above(SHOWN_SCORE)
        chosen = choose_frames(result.num_frames, 8)
        images = [shrink(draw_result(image, shown, i)) for i, image in enumerate(self.frames[number]()) if i in chosen]
        folder.mkdir(parents=True, exist_ok=True)
        save_png(contact_sheet(images, [f"frame {i}" for i in chosen]), folder / f"{step:06}-{number}.png")


def best_classes(result: VideoInstances) -> VideoInstances:
    """Every track once, with its best class."""
    order = np.argsort(-result.scores, kind="stable")
    _, first = np.unique(result.track_ids[order], return_index=True)
    return result[order[np.sort(first)]]


def synthetic_validation(
    videos: int = 8,
    *,
    seed: int,
    frames: int = 12,
    size: tuple[int, int] = (128, 192),
    difficulty: str | Difficulty = "standard",
    folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> Validation:
    """Validation on the first `videos` scenes of a seed that training does not use; other arguments as `draw_video`."""
    if videos < 1:
        raise InputError(f"videos is {videos}, expected at least 1")
    drawings = [draw_video(seed, i, frames=frames, size=size, difficulty=difficulty) for i in range(videos)]
    shown: list[Frames] = [partial(iter, drawing.frames) for drawing in drawings]
    return Validation(document_of(drawings), shown, folder, say)


def annotated_validation(
    name: str, videos: int = 8, *, folder: Path | None = None, say: Callable[[str], None] = print
) -> Validation:
    """Validation on the first `videos` annotated videos of a file that `mdqe.training.sources.find_annotations` finds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no videos in the form of YouTube-VIS.
    """
    found = find_annotations(name)
    try:
        document = json.loads(found.path.read_bytes())
        annotated = {one["video_id"] for one in document["annotations"]}
        chosen = [video for video in document["videos"] if video["id"] in annotated][:videos]
        kept = {video["id"] for video in chosen}
        annotations = [one for one in document["annotations"] if one["video_id"] in kept]
        frames = [partial(_images, [found.images / file for file in video["file_names"]]) for video in chosen]
        document = {"videos": chosen, "categories": document["categories"], "annotations": annotations}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{found.path} holds no annotated videos in the form of YouTube-VIS: {error!r}") from error
    return Validation(document, frames, folder, say)


def _images(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    from mdqe.data.images import read_image

    for path in paths:
        yield read_image(path).numpy()  # (H, W, 3)
