"""Synthetic sets on disk: a folder of frames for each video, and annotations in the format of YouTube-VIS and OVIS."""

import json
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mdqe.annotations.masks import frame_lists
from mdqe.data.scene import DIFFICULTIES, Difficulty
from mdqe.data.synthetic import CATEGORIES, Drawing, draw_video
from mdqe.errors import InputError
from mdqe.files import named_errors, partial_path
from mdqe.results import rle

IMAGES, ANNOTATIONS, VIDEOS = "JPEGImages", "annotations.json", "videos"
FORMATS = ("jpg", "png")
SLIGHT, SEVERE = 0.05, 0.5
"""Minimum hidden shares of a slightly and of a severely occluded shape."""
_PART = 16  # number of frames that are drawn together


def write_set(
    folder: str | Path,
    *,
    videos: int,
    frames: int = 12,
    seed: int = 0,
    size: tuple[int, int] = (128, 192),
    difficulty: str | Difficulty = "standard",
    images: str = "jpg",
    mp4: bool = False,
    fps: int = 12,
) -> Generator[Path, None, None]:
    """Write the first `videos` scenes of a seed. Yields the path of each written frame, relative to the folder.

    The folder is complete or does not exist. It is written as "FOLDER.partial", which is removed if there is an error.

        FOLDER/annotations.json            videos, categories, annotations
        FOLDER/JPEGImages/00000/00000.jpg  the frames; "file_names" are relative to JPEGImages
        FOLDER/videos/00000.mp4            with `mp4`, the same videos as video files

    Args:
        folder: a new or an empty folder.
        videos, frames: number of videos, and number of frames of each.
        seed, size, difficulty: as in `draw_video`.
        images: "jpg", or "png" for exact pixels.
        mp4: also write video files.
        fps: of the video files.

    Raises:
        ValueError: a value out of range.
        FileExistsError: the folder is not empty, or an interrupted run left a partial folder.
        OSError: a file cannot be written.
        ImportError: `mp4` without PyAV.
    """
    folder, video_fps = Path(folder), fps if mp4 else None
    _check(folder, videos, frames, images, video_fps)
    draw_video(seed, frames=1, size=size, difficulty=difficulty)  # checks the rest

    def draw(index: int, start: int) -> Drawing:
        count = min(_PART, frames - start)
        return draw_video(seed, index, frames=count, size=size, difficulty=difficulty, start=start, scene_frames=frames)

    settings = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty
    document = {
        "info": {
            "description": "textured shapes that cross and hide each other, drawn by mdqe make-data",
            "seed": seed,
            "objects": list(settings.objects),
            "similarity": settings.similarity,
            "occlusion": settings.occlusion,
            **({"hiding": settings.hiding} if settings.hiding else {}),
        },
        "licenses": [],
        "videos": [_video(index, frames, size, images) for index in range(videos)],
        "categories": _categories(),
    }
    return _write(folder, document, draw, video_fps)


def _check(folder: Path, videos: int, frames: int, images: str, fps: int | None) -> None:
    if videos < 1 or frames < 1:
        raise InputError(f"videos is {videos} and frames is {frames}, expected at least 1")
    if images not in FORMATS:
        raise InputError(f"images is {images!r}, expected {' or '.join(FORMATS)}")
    if fps is not None:
        from mdqe.video import require_av

        require_av()
        if fps < 1:
            raise InputError(f"fps is {fps}, expected at least 1")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} already exists, expected a new or an empty folder")
    if partial_path(folder).exists():
        raise FileExistsError(f"{partial_path(folder)} exists from an interrupted run; remove it first")


def _write(
    folder: Path, document: dict[str, Any], draw: Callable[[int, int], Drawing], fps: int | None
) -> Generator[Path, None, None]:
    """Write the videos of a document and the document itself. `draw(index, start)` draws a part of a video."""
    partial = partial_path(folder)
    partial.mkdir(parents=True)
    try:
        annotations: list[dict[str, Any]] = []
        for index, video in enumerate(document["videos"]):
            parts = (draw(index, start) for start in range(0, video["length"], _PART))
            annotations += yield from _write_video(partial, video, parts, fps)
        document["annotations"] = _numbered(annotations)
        with named_errors(folder / ANNOTATIONS):
            (partial / ANNOTATIONS).write_text(json.dumps(document, separators=(",", ":")))
        if folder.exists():
            folder.rmdir()  # it is empty; not every system can replace it by renaming
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_video(
    folder: Path, video: dict[str, Any], parts: Iterable[Drawing], fps: int | None
) -> Generator[Path, None, list[dict[str, Any]]]:
    """Write a video, given in parts. Yields the relative paths of its frames, and returns its annotations."""
    from PIL import Image

    paths = [Path(IMAGES, name) for name in video["file_names"]]
    (folder / paths[0].parent).mkdir(parents=True)
    options: dict[str, Any] = {"compress_level": 6} if paths[0].suffix == ".png" else {"quality": 95, "subsampling": 0}
    annotated = []
    with ExitStack() as stack:
        writer = None
        if fps is not None:
            from mdqe.video.write import VideoWriter

            (folder / VIDEOS).mkdir(exist_ok=True)
            writer = stack.enter_context(VideoWriter(folder / VIDEOS / f"{paths[0].parent.name}.mp4", fps))
        remaining = iter(paths)
        for part in parts:
            annotated.append(_annotate(part))
            for frame, path in zip(part.frames, remaining, strict=False):
                with named_errors(folder / path):
                    Image.fromarray(frame).save(folder / path, **options)
                if writer is not None:
                    writer.write(frame)
                yield path
    return _annotations(video, part.labels.tolist(), annotated)


def document_of(drawings: Iterable[Drawing]) -> dict[str, Any]:
    """The annotation file that `write_set` writes for these videos."""
    videos, annotations = [], []
    for index, drawing in enumerate(drawings):
        videos.append(_video(index, len(drawing.frames), drawing.frames.shape[1:3], "png"))
        annotations += _annotations(videos[-1], drawing.labels.tolist(), [_annotate(drawing)])
    return {"videos": videos, "categories": _categories(), "annotations": _numbered(annotations)}


def _categories() -> list[dict[str, Any]]:
    return [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, 1)]


def _video(index: int, frames: int, size: tuple[int, int], images: str) -> dict[str, Any]:
    names = [f"{index:05}/{number:05}.{images}" for number in range(frames)]
    return {"id": index + 1, "height": size[0], "width": size[1], "length": frames, "file_names": names}


def _numbered(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)]


def _annotations(
    video: dict[str, Any], labels: list[int], annotated: list[list[dict[str, list[Any]]]]
) -> list[dict[str, Any]]:
    """The annotations of a video from those of its parts (`_annotate`)."""
    found = []
    for label, *per_part in zip(labels, *annotated, strict=True):
        per_frame = {key: [value for one in per_part for value in one[key]] for key in per_part[0]}
        if any(one is not None for one in per_frame["segmentations"]):
            head = {"video_id": video["id"], "category_id": label + 1, "iscrowd": 0}
            # The published files have length 1 in every annotation.
            found.append({**head, "height": video["height"], "width": video["width"], "length": 1, **per_frame})
    return found


def _annotate(drawing: Drawing) -> list[dict[str, list[Any]]]:
    """For each shape the lists of an annotation, with one entry for each frame; null where the shape is not visible.

    "occlusion_degree" is the hidden share, also where it is 1, and null where the shape is outside the frame.
    """
    count, frames, *size = drawing.masks.shape
    counts = rle.encode(drawing.masks.reshape(-1, *size))  # (N · T, H, W)
    shapes = []
    for i in range(0, count * frames, frames):
        hidden = drawing.hidden[i // frames].tolist()
        shape = frame_lists(counts[i : i + frames], tuple(size))
        shape["occlusion"] = [
            None if area is None else _occlusion(share) for area, share in zip(shape["areas"], hidden, strict=True)
        ]
        shape["occlusion_degree"] = [None if share != share else round(share, 4) for share in hidden]
        shapes.append(shape)
    return shapes


def _occlusion(hidden: float) -> str:
    if hidden < SLIGHT:
        return "no_occlusion"
    return "slight_occlusion" if hidden < SEVERE else "severe_occlusion"
