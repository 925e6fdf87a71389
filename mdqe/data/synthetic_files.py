"""A synthetic set as files: a folder of frames per video, and annotations in the JSON of YouTube-VIS and OVIS."""

import json
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mdqe.annotations.masks import frame_lists
from mdqe.atomic import partial_path
from mdqe.data.scene import DIFFICULTIES, Difficulty
from mdqe.data.synthetic import CATEGORIES, Drawing, draw_video
from mdqe.errors import InputError
from mdqe.results import rle

IMAGES, ANNOTATIONS, VIDEOS = "JPEGImages", "annotations.json", "videos"
FORMATS = ("jpg", "png")
SLIGHT, SEVERE = 0.05, 0.5
"""Hidden shares from which a shape counts as slightly and as severely occluded, as people would say it does."""
_AT_ONCE = 16  # frames in memory


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
    """Write the first `videos` scenes of a seed; yields every frame's path in the folder when it is written.

    The folder is whole or not there: until the end it is "FOLDER.partial", which is removed if anything goes wrong.

        FOLDER/annotations.json            videos, categories, annotations
        FOLDER/JPEGImages/00000/00000.jpg  the frames; "file_names" are relative to JPEGImages
        FOLDER/videos/00000.mp4            with `mp4`, the same as video files

    Args:
        folder: a new or an empty one.
        videos, frames: how many, and how long each is.
        seed, size, difficulty: as in `draw_video`.
        images: "jpg", or "png" for pixels exactly as drawn.
        mp4: write video files too.
        fps: of the video files.

    Raises:
        ValueError: a value out of range.
        FileExistsError: the folder has files in it, or its partial one is there from a run that was killed.
        OSError: a file cannot be written.
        ImportError: `mp4` without PyAV.
    """
    if videos < 1 or frames < 1:
        raise InputError(f"videos is {videos} and frames is {frames}; expected 1 or more")
    if images not in FORMATS:
        raise InputError(f"images is {images!r}; expected {' or '.join(FORMATS)}")
    draw_video(seed, frames=1, size=size, difficulty=difficulty)  # checks the rest
    if mp4:
        from mdqe.video.decode import require_av

        require_av()
        if fps < 1:
            raise InputError(f"fps is {fps}; expected 1 or more")
    folder = Path(folder)
    _check_free(folder)

    def draw(index: int, start: int) -> Drawing:
        count = min(_AT_ONCE, frames - start)
        return draw_video(seed, index, frames=count, size=size, difficulty=difficulty, start=start, scene_frames=frames)

    document = {
        "info": _describe(seed, difficulty),
        "licenses": [],
        "videos": [_describe_video(index, frames, size, images) for index in range(videos)],
        "categories": _categories(),
    }
    return _write(folder, document, draw, images, fps if mp4 else None)


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; choose a new or an empty folder")
    if partial_path(folder).exists():
        raise FileExistsError(f"{partial_path(folder)} is left from a run that was killed; remove it first")


def _write(
    folder: Path, document: dict[str, Any], draw: Callable[[int, int], Drawing], images: str, fps: int | None
) -> Generator[Path, None, None]:
    """Write the videos of the document, drawn part by part from (index, first frame), and the document with them."""
    partial = partial_path(folder)
    partial.mkdir(parents=True)
    try:
        found: list[dict[str, Any]] = []
        for index, video in enumerate(document["videos"]):
            parts = (draw(index, start) for start in range(0, video["length"], _AT_ONCE))
            found += yield from _write_video(partial, index, parts, images, fps)
        annotations = [{"id": number, **one} for number, one in enumerate(found, 1)]
        text = json.dumps({**document, "annotations": annotations}, separators=(",", ":"))
        (partial / ANNOTATIONS).write_text(text)
        if folder.exists():
            folder.rmdir()  # it is empty, and not every system replaces it
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_video(
    folder: Path, index: int, parts: Iterable[Drawing], images: str, fps: int | None
) -> Generator[Path, None, list[dict[str, Any]]]:
    """Write a video that comes in parts; yields the frames' paths in the folder, returns its annotations."""
    from PIL import Image

    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if images == "jpg" else {"compress_level": 6}
    annotated = []
    with ExitStack() as stack:
        writer = None
        if fps is not None:
            from mdqe.video.write import VideoWriter

            (folder / VIDEOS).mkdir(exist_ok=True)
            writer = stack.enter_context(VideoWriter(folder / VIDEOS / f"{index:05}.mp4", fps))
        number = 0
        for part in parts:
            annotated.append(_annotate(part))
            for frame in part.frames:
                path = Path(IMAGES, _frame_name(index, number, images))
                (folder / path.parent).mkdir(parents=True, exist_ok=True)
                Image.fromarray(frame).save(folder / path, **options)
                if writer is not None:
                    writer.write(frame)
                number += 1
                yield path
    return _annotations(index, part.labels.tolist(), part.frames.shape[1:3], annotated)


def document_of(drawings: Iterable[Drawing]) -> dict[str, Any]:
    """Whole videos in memory as `write_set` would describe them in its annotation file."""
    videos, found = [], []
    for index, drawing in enumerate(drawings):
        size = drawing.frames.shape[1:3]
        videos.append(_describe_video(index, len(drawing.frames), size, "png"))
        found += _annotations(index, drawing.labels.tolist(), size, [_annotate(drawing)])
    annotations = [{"id": number, **one} for number, one in enumerate(found, 1)]
    return {"videos": videos, "categories": _categories(), "annotations": annotations}


def _categories() -> list[dict[str, Any]]:
    return [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, 1)]


def _annotations(
    index: int, labels: list[int], size: tuple[int, int], annotated: list[list[dict[str, list[Any]]]]
) -> list[dict[str, Any]]:
    """The annotations of a video, of each of its parts' shapes as `_annotate` gives them."""
    found = []
    for label, *per_part in zip(labels, *annotated, strict=True):
        per_frame = {key: [value for one in per_part for value in one[key]] for key in per_part[0]}
        if any(one is not None for one in per_frame["segmentations"]):
            head = {"video_id": index + 1, "category_id": label + 1, "iscrowd": 0}
            # The published files give 1 as the length of every annotation.
            found.append({**head, "height": size[0], "width": size[1], "length": 1, **per_frame})
    return found


def _annotate(drawing: Drawing) -> list[dict[str, list[Any]]]:
    """Per shape the lists of an annotation, one entry a frame; null where nothing of it is seen.

    "occlusion_degree" holds the hidden share itself, also where it is 1; null where the shape is outside the picture.
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


def _frame_name(index: int, number: int, images: str) -> str:
    return f"{index:05}/{number:05}.{images}"


def _describe_video(index: int, frames: int, size: tuple[int, int], images: str) -> dict[str, Any]:
    names = [_frame_name(index, number, images) for number in range(frames)]
    return {"id": index + 1, "height": size[0], "width": size[1], "length": frames, "file_names": names}


def _describe(seed: int, difficulty: str | Difficulty) -> dict[str, Any]:
    """What the set was made with."""
    dial = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty
    return {
        "description": "textured shapes that cross and hide one another, drawn by mdqe make-data",
        "seed": seed,
        "objects": list(dial.objects),
        "similarity": dial.similarity,
        "occlusion": dial.occlusion,
    }
