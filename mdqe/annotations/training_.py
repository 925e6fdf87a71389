"""Annotation files of videos and images, checked as a whole, their masks packed until they are drawn."""

import json
import mmap
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdqe.annotations.masks import Segment, decode, pack, runs, shrink
from mdqe.annotations.problems import DataError, Problems
from mdqe.errors import InputError


class Layout(NamedTuple):
    """Names of the keys in which the formats differ."""

    items: str
    """The list of videos or images."""
    item_id: str
    """An annotation's video or image."""
    files: str
    """The files of an item: a list for a video, one name for an image; likewise the masks and boxes."""
    masks: str
    boxes: str


VIDEOS = Layout("videos", "video_id", "file_names", "segmentations", "bboxes")
IMAGES = Layout("images", "image_id", "file_name", "segmentation", "bbox")


class Item(NamedTuple):
    """A video, or an image as a video of one frame."""

    files: tuple[str, ...]
    """Of its L frames, relative to the folder of images."""
    size: tuple[int, int]
    """H and W."""
    objects: slice
    """The places of its N objects among all objects."""
    first: int
    """The place of its first mask among all; they follow one another by object, then by frame."""


@dataclass(frozen=True)
class Annotations:
    """The videos or images of a file that have objects to learn, and those objects.

    Masks lie packed in one array of bytes, which processes share instead of copying it.
    """

    categories: tuple[str, ...]
    """Names of the labels; empty where a category has none in the file."""
    category_ids: tuple[int, ...]
    """The id of each label."""
    items: list[Item]
    labels: np.ndarray
    """(all objects,) int64."""
    packed: np.ndarray
    """(all bytes,) uint8."""
    ends: np.ndarray
    """(all masks,) int64: where each ends in `packed`."""

    def draw(self, item: Item, frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Labels (K,) and masks (K, T, H, W), bool, of the objects that are in one of T frames of an item."""
        labels, length = self.labels[item.objects], len(item.files)
        places = item.first + np.arange(len(labels))[:, None] * length + np.asarray(frames)  # (N, T)
        starts, ends = np.where(places > 0, self.ends[places - 1], 0), self.ends[places]
        kept = (ends > starts).any(1)
        spans = zip(starts[kept].ravel().tolist(), ends[kept].ravel().tolist(), strict=True)
        masks = decode([self.packed[start:end].tobytes() for start, end in spans], item.size)  # (K · T, H, W)
        return labels[kept], masks.reshape(-1, len(frames), *item.size)


def holds_images(path: Path) -> bool:
    """Whether a JSON file is of images, as COCO's are, and not of videos: by its keys, which are looked for unparsed.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            images, videos = (re.search(rb'"%s"\s*:' % key, data) for key in (b"images", b"videos"))
            return images is not None and videos is None


def read_annotations(
    path: Path,
    layout: Layout,
    problems: Problems,
    *,
    category_ids: Sequence[int] | None = None,
    category_map: Mapping[int, int] | None = None,
) -> Annotations:
    """Read an annotation file.

    Objects of crowds are left out, and so are objects whose category has no place in `category_map`, and then items
    without objects. What is wrong with an object is noted in `problems`, and the object left out.

    Args:
        path: the JSON file.
        layout: VIDEOS or IMAGES.
        problems: takes what is wrong.
        category_ids: the category id of each label; None: the file's own, in ascending order.
        category_map: from the file's category ids to those of `category_ids`.

    Raises:
        DataError: the file is not in this format, or nothing in it can be learned.
        OSError: it cannot be read.
    """
    document = _load(path, layout)
    names = _entries(document, "categories", {"id": int, "name": str}, path)
    own = {entry["id"]: entry["name"] for entry in names}
    if category_map is not None and category_ids is None:
        raise InputError("category_map is given, expected category_ids with it: the ids that it leads to, by label")
    ids = tuple(sorted(own) if category_ids is None else category_ids)
    leads = {one: one for one in ids} if category_map is None else category_map
    if wrong := sorted(set(leads.values()) - set(ids)):
        raise InputError(f"category_map leads to {wrong}, expected ids of category_ids {list(ids)}")
    label = {one: ids.index(to) for one, to in leads.items()}
    ignored = frozenset() if category_map is None else frozenset(own) - frozenset(label)
    kinds: dict[str, type] = {"id": int, "height": int, "width": int, layout.files: list if layout is VIDEOS else str}
    items = _entries(document, layout.items, kinds, path)
    objects: dict[int, list[_Object]] = {entry["id"]: [] for entry in items}
    if len(objects) < len(items):
        raise DataError(f"{path}: two of its {layout.items} have the same id")
    lengths = {entry["id"]: len(entry[layout.files]) if layout is VIDEOS else 1 for entry in items}
    for found in _objects(document.pop("annotations", None) or [], layout, lengths, label, ignored, problems):
        objects[found.item].append(found)
    annotations = _pack(items, objects, layout, problems)
    if not annotations[0]:
        raise DataError(f"{path}: none of its {len(items)} {layout.items} has an object to learn")
    categories = [own.get(one, "") if category_map is None else "" for one in ids]
    return Annotations(tuple(categories), ids, *annotations)


class _Object(NamedTuple):
    name: str
    item: int
    label: int
    masks: list[Segment]


def _load(path: Path, layout: Layout) -> dict[str, Any]:
    """The file, its masks shrunk while it is parsed: the lists of their numbers never exist all at once."""

    def smaller(entry: dict[str, Any]) -> dict[str, Any] | Any:
        if "counts" in entry and "size" in entry:
            return runs(entry["counts"], entry["size"])
        if layout.masks in entry:
            masks = entry[layout.masks]
            if layout is IMAGES:
                entry[layout.masks] = [shrink(masks)]
            elif isinstance(masks, list):
                entry[layout.masks] = [shrink(mask) for mask in masks]
        return entry

    try:
        document = json.loads(path.read_bytes(), object_hook=smaller)
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get(layout.items), list):
        raise DataError(f'{path} has no list "{layout.items}"')
    return document


def _entries(document: dict[str, Any], name: str, kinds: dict[str, type], path: Path) -> list[dict[str, Any]]:
    """The entries of a list of the document, each with the keys of `kinds`."""
    entries = document.get(name)
    if not isinstance(entries, list):
        raise DataError(f'{path} has no list "{name}"')
    for number, entry in enumerate(entries):
        for key, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                given = repr(entry.get(key))[:60] if isinstance(entry, dict) and key in entry else "missing"
                raise DataError(f'{path}: "{key}" of entry {number} of "{name}" is {given}, expected {kind.__name__}')
    return entries


def _objects(
    entries: Iterable[Any],
    layout: Layout,
    lengths: Mapping[int, int],
    label: Mapping[int, int],
    ignored: frozenset[int],
    problems: Problems,
) -> Iterable[_Object]:
    """The annotations that can be learned from, their masks not yet checked."""
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            problems.add("annotations are not objects", f"entry {number}")
            continue
        name = f"annotation {entry.get('id', f'number {number}')}"
        category, item = (_whole(entry.get(key)) for key in ("category_id", layout.item_id))
        if entry.get("iscrowd") or category in ignored:
            continue
        masks, length = entry.get(layout.masks), None if item is None else lengths.get(item)
        boxes = [entry.get(layout.boxes)] if layout is IMAGES else entry.get(layout.boxes)
        if item is None or length is None:
            problems.add(f"annotations are of unknown {layout.items}", f"{name} ({entry.get(layout.item_id)!r})")
        elif category is None or category not in label:
            problems.add("annotations have an unknown category", f"{name} ({entry.get('category_id')!r})")
        elif not isinstance(masks, list) or len(masks) != length:
            given = len(masks) if isinstance(masks, list) else "no list of"
            problems.add("annotations have too few or too many masks", f"{name} ({given} masks, {length} frames)")
        elif isinstance(boxes, list) and any(not _is_box(box) for box in boxes):
            problems.add("annotations have boxes that are not four finite numbers", name)
        else:
            yield _Object(name, item, label[category], masks)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _is_box(box: Any) -> bool:
    """Whether a box is None, empty, or four finite numbers; masks say where an object is."""
    if not box:
        return box is None or box == []
    try:
        return len(box) == 4 and all(map(isfinite, box))
    except TypeError:
        return False


def _pack(
    entries: list[dict[str, Any]], objects: dict[int, list[_Object]], layout: Layout, problems: Problems
) -> tuple[list[Item], np.ndarray, np.ndarray, np.ndarray]:
    """Items with objects, and all labels, packed masks and their ends."""
    items: list[Item] = []
    labels: list[int] = []
    chunks: list[bytes] = []
    sizes: list[int] = []
    for entry in entries:
        size = entry["height"], entry["width"]
        files = entry[layout.files] if layout is VIDEOS else [entry[layout.files]]
        first, kept = len(sizes), len(labels)
        found = objects.pop(entry["id"])
        packed = pack([mask for one in found for mask in one.masks], size)
        for i, one in enumerate(found):
            checked = packed[i * len(files) : (i + 1) * len(files)]
            masks = [mask for mask in checked if isinstance(mask, bytes)]
            wrong = [(t, mask) for t, mask in enumerate(checked) if isinstance(mask, DataError)]
            if wrong:
                where = one.name + (f", frame {wrong[0][0]}" if layout is VIDEOS else "")
                problems.add("annotations have masks that do not decode", f"{where} ({wrong[0][1]})")
            elif any(masks):
                labels.append(one.label)
                chunks.append(b"".join(masks))
                sizes += map(len, masks)
        if len(labels) > kept:
            items.append(Item(tuple(files), size, slice(kept, len(labels)), first))
    together = np.frombuffer(b"".join(chunks), np.uint8)
    return items, np.array(labels, np.int64), together, np.cumsum(np.array(sizes, np.int64))
