"""All videos in one JSON file: annotations in the form of YouTube-VIS, or of COCO with an image for each frame."""

from collections.abc import Mapping
from typing import Any

from mdqe.annotations.masks import frame_lists
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import Track
from mdqe.importing.coco import FRAME_KEYS, TRACK_KEYS
from mdqe.writing.clips import Clip, track_numbers

_MOST = 2**63 - 1


class Document:
    """Collects videos and builds the document.

    Args:
        form: "ytvis" or "coco".
        notes: receives the videos whose objects have new ids.
    """

    def __init__(self, form: str, notes: Problems) -> None:
        self._add = {"ytvis": self._add_video, "coco": self._add_images}[form]
        self._form, self._notes = form, notes
        self._videos: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._categories: list[Mapping[int, str]] = []

    def add(self, clip: Clip) -> None:
        """Add a video. The scores of results are kept in an entry "score" of the annotations."""
        used = {track.category: clip.category(track) for track in clip.tracks}
        self._categories.append({**used, **clip.categories})
        self._add(len(self._videos) + 1, clip)

    def build(self) -> dict[str, Any]:
        """The document. Categories have the ids that the videos have if these agree, otherwise ids 1, 2, … by name."""
        ids = _agreed(self._categories)
        if ids is None:
            names = sorted({name for one in self._categories for name in one.values()})
            ids = {name: number for number, name in enumerate(names, 1)}
            self._notes.add("categories with new ids, because the videos have different ids for them", ", ".join(ids))
        objects = [{**one, "category_id": ids[one["category_id"]]} for one in self._objects]
        categories = [{"id": number, "name": name} for name, number in sorted(ids.items(), key=lambda one: one[1])]
        images = {"images": self._images} if self._form == "coco" else {}
        return {"videos": self._videos, **images, "categories": categories, "annotations": objects}

    def _add_video(self, number: int, clip: Clip) -> None:
        height, width = clip.size
        size = {"height": height, "width": width, "length": len(clip.files)}
        self._videos.append({"id": number, "name": clip.name, **size, "file_names": clip.files})
        for track, identity in self._tracks(clip):
            head = self._head(clip, track, identity) | {"video_id": number, "height": height, "width": width}
            self._objects.append(head | frame_lists(track.masks, clip.size))  # type: ignore[arg-type]

    def _add_images(self, number: int, clip: Clip) -> None:
        height, width = clip.size
        self._videos.append({"id": number, "name": clip.name})
        first = len(self._images) + 1
        for t, file in enumerate(clip.files):
            place = {"id": first + t, "video_id": number, FRAME_KEYS[0]: t}
            self._images.append({**place, "file_name": file, "height": height, "width": width})
        for track, identity in self._tracks(clip):
            lists = frame_lists(track.masks, clip.size)  # type: ignore[arg-type]
            frames = zip(lists["segmentations"], lists["bboxes"], lists["areas"], strict=True)
            for t, (mask, box, area) in enumerate(frames):
                if mask is not None:
                    head = self._head(clip, track, identity) | {"image_id": first + t}
                    self._objects.append(head | {"segmentation": mask, "bbox": box, "area": area})

    def _tracks(self, clip: Clip) -> list[tuple[Track, int]]:
        return list(zip(clip.tracks, track_numbers(clip, clip.tracks, 0, _MOST, self._notes), strict=True))

    def _head(self, clip: Clip, track: Track, identity: int) -> dict[str, Any]:
        """What annotations of both forms have. The name of the category stands for its id until that is known."""
        head = {"id": len(self._objects) + 1, "category_id": clip.category(track), "iscrowd": int(track.is_crowd)}
        return head | {TRACK_KEYS[0]: identity, "score": track.score}


def _agreed(every: list[Mapping[int, str]]) -> dict[str, int] | None:
    """The ids of categories by name; None if an id has two names, or a name two ids."""
    names: dict[int, str] = {}
    for one in every:
        for number, name in one.items():
            if names.setdefault(number, name) != name:
                return None
    ids = {name: number for number, name in names.items()}
    return ids if len(ids) == len(names) else None
