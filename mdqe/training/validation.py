"""Validation during training: the model segments a few videos that it is not trained on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe.annotations.files import Source
from mdqe.annotations.problems import SKIP_HINT
from mdqe.annotations.reader import VIDEOS, pack_tracks, read_annotations
from mdqe.data.images import image_problems, read_image
from mdqe.data.scene import Difficulty
from mdqe.data.synthetic import draw_video
from mdqe.data.synthetic_files import document_of
from mdqe.distributed import gather, rank, ranks
from mdqe.errors import InputError
from mdqe.evaluation.segment_set import label_ids
from mdqe.training.sources import find_annotations

if TYPE_CHECKING:
    from mdqe.config import MDQEConfig
    from mdqe.model import MDQE
    from mdqe.results.instances import VideoInstances

Frames = Callable[[], Iterable[np.ndarray]]
"""Returns the frames of a video, (H, W, 3) uint8 each, from the first one each time it is called."""

PICTURED = 4  # videos
SHOWN_SCORE = 0.3


class Validation:
    """Segments videos, compares the results with their annotations, and draws the results of the first few videos.

    It is called with a model and the number of completed steps, in every process; the processes share the videos. The
    metrics are those of `mdqe.evaluation.evaluate`, under the benchmark protocol. Pictures are FOLDER/STEP-VIDEO.png.

    Args:
        annotations: of videos, as in `evaluate`.
        frames: of each video.
        folder: of the pictures; None: no pictures.
        say: receives messages.
        category_ids: the set's category id of each label; None: the model's own ids.

    Raises:
        InputError: the annotations are invalid, or the number of videos is 0 or differs from that of `frames`.
    """

    def __init__(
        self,
        annotations: Source,
        frames: Sequence[Frames],
        folder: Path | None = None,
        say: Callable[[str], None] = print,
        category_ids: Sequence[int] | None = None,
    ) -> None:
        self.annotations, self.frames = read_annotations(annotations), list(frames)
        self.category_ids = category_ids
        self.annotations.expect(VIDEOS)
        self.videos = list(self.annotations.videos)
        if len(self.videos) != len(self.frames) or not frames:
            raise InputError(f"{len(self.videos)} videos and frames of {len(frames)}; expected as many, at least 1")
        self.folder = folder
        if folder is not None and find_spec("PIL") is None:
            say("validation draws no pictures; for them: pip install 'mdqe[video]'")
            self.folder = None

    def __call__(self, model: MDQE, step: int) -> dict[str, float]:
        """The metrics after `step` steps; {} in all processes but the first."""
        from mdqe.evaluation import evaluate

        results: list[dict[str, Any]] = []
        for number in range(rank(), len(self.frames), ranks()):
            result = model.segment(self.frames[number](), multi_label=True)
            results += result.to_ytvis(self.videos[number], self.category_ids)
            if self.folder is not None and number < PICTURED:
                self._draw(self.folder, number, result, step)
        everyone = [one for part in gather(results) for one in part]
        if rank() != 0:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # early in training there are often no results
            metrics = evaluate(self.annotations, everyone)
        return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}

    def _draw(self, folder: Path, number: int, result: VideoInstances, step: int) -> None:
        from mdqe.video.overlay import choose_frames, contact_sheet, draw_result, save_png, shrink

        shown = best_classes(result).above(SHOWN_SCORE)
        chosen = choose_frames(result.num_frames, 8)
        images = [shrink(draw_result(image, shown, i)) for i, image in enumerate(self.frames[number]()) if i in chosen]
        folder.mkdir(parents=True, exist_ok=True)
        save_png(contact_sheet(images, [f"frame {i}" for i in chosen]), folder / f"{step:06}-{number}.png")


def best_classes(result: VideoInstances) -> VideoInstances:
    """Each track once, with its best class."""
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
    """Validation on the first `videos` scenes of a seed that training does not use; the rest as in `draw_video`."""
    if videos < 1:
        raise InputError(f"videos is {videos}, expected at least 1")
    drawings = [draw_video(seed, i, frames=frames, size=size, difficulty=difficulty) for i in range(videos)]
    shown: list[Frames] = [partial(iter, drawing.frames) for drawing in drawings]
    return Validation(document_of(drawings), shown, folder, say)


def annotated_validation(
    name: str,
    videos: int = 8,
    *,
    config: MDQEConfig | None = None,
    skip_bad: bool = False,
    folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> Validation:
    """Validation on the first `videos` annotated videos of a file. It is checked by the same rules as a training set.

    Args:
        name: as in `mdqe.annotations.files.find_data`.
        videos: the number of videos.
        config: of the model, whose categories are matched with those of the file by name, otherwise by id; None: by id.
        skip_bad: continue without invalid annotations, and without videos that have invalid images, after a warning.
        folder, say: as in `Validation`.

    Raises:
        OSError: the file or the folder of the images does not exist or cannot be read.
        InputError: the file does not contain annotated videos or the categories of the model, or it or its images have
            problems, all of which are listed.
    """
    if videos < 1:
        raise InputError(f"videos is {videos}, expected at least 1")
    files = find_annotations(name)
    annotations = read_annotations(files.annotations, strict=False)
    annotations.expect(VIDEOS)
    annotations.require_files()
    problems, kept = annotations.problems, {}
    for video in [video for video in annotations.videos.values() if video.objects][:videos]:
        packed = pack_tracks(annotations.name, VIDEOS, video.objects, video.size, problems)
        video.objects = [track for track, _ in packed]
        paths = [files.images / file for file in video.file_names or ()]
        found = [problem for problem in image_problems((path, video.size) for path in paths) if problem is not None]
        for problem in found:
            problems.add(*problem)
        if video.objects and not found:
            kept[video.id] = (video, partial(_images, paths))
    problems.report(annotations.name, skip=skip_bad, hint=SKIP_HINT)
    if not kept:
        raise InputError(f"{annotations.name}: none of its {len(annotations.videos)} videos has an object")
    ids = None if config is None else label_ids(config, annotations, partial=True)
    chosen = replace(annotations, videos={number: video for number, (video, _) in kept.items()})
    return Validation(chosen, [frames for _, frames in kept.values()], folder, say, ids)


def _images(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        yield read_image(path).numpy()  # (H, W, 3)
