"""All videos in one JSON file: annotations as in YouTube-VIS, in COCO with an image for each frame, or in BURST."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from mdqe.annotations.masks import frame_lists
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import Track
from mdqe.importing.coco import FRAME_KEYS, TRACK_KEYS
from mdqe.writing.clips import Clip, track_numbers
from mdqe.writing.pngs import note_crowds

_MOST = 2**63 - 1


class Document:
    """Collects videos and builds the document.

    Args:
        form: "ytvis", "coco" or "burst".
        notes: receives the videos whose objects have new ids, and crowds, which "burst" does not have.
    """

    def __init__(self, form: str, notes: Problems) -> None:
        self._add = {"ytvis": self._add_video, "coco": self._add_images, "burst": self._add_sequence}[form]
        self._form, self._notes = form, notes
        self._videos: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._categories: list[Mapping[int, str]] = []
        self._split = "val"

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
        if self._form == "burst":
            for one in self._videos:
                one["track_category_ids"] = {track: ids[name] for track, name in one["track_category_ids"].items()}
            return {"split": self._split, "sequences": self._videos, "categories": categories}
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

    def _add_sequence(self, number: int, clip: Clip) -> None:
        """The frames of a sequence are in DATASET/SEQUENCE or SPLIT/DATASET/SEQUENCE."""
        note_crowds(clip, self._notes)
        folder = PurePosixPath(clip.files[0]).parent
        self._split = folder.parent.parent.name or self._split
        names = [PurePosixPath(file).name for file in clip.files]
        objects = clip.objects()
        tracks = dict(zip(track_numbers(clip, objects, 0, _MOST, self._notes), objects, strict=True))
        masks = [
            {str(i): {"rle": one.masks[t], "score": one.score} for i, one in tracks.items() if one.masks[t] is not None}
            for t in range(len(names))
        ]
        sequence = {"id": number, "dataset": folder.parent.name or ".", "seq_name": folder.name or clip.name}
        sequence |= {"height": clip.size[0], "width": clip.size[1], "all_image_paths": names}
        sequence |= {"annotated_image_paths": names, "segmentations": masks}
        sequence["track_category_ids"] = {str(i): clip.category(one) for i, one in tracks.items()}
        self._videos.append(sequence | {"neg_category_ids": [], "not_exhaustive_category_ids": []})

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
