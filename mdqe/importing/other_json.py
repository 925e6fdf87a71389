"""JSON files that are not in the form of COCO: what they are, for an error message."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdqe.annotations.files import load_json
from mdqe.importing.source import video_folders

_TAO_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


def other_form(document: Any) -> str | None:
    """What a document is that contains no images with masks of tracks, and what to do with it; None if unknown."""
    if isinstance(document, list):
        return "a list, as results are; mdqe import reads annotations"
    if not isinstance(document, Mapping):
        return None
    if isinstance(document.get("shapes"), list):
        return "the LabelMe file of one frame; name the folder that contains the files of all frames"
    if "masklet" in document:
        return "in the form of SA-V (masklets of one video), which mdqe import does not read"
    if isinstance(document.get("tracks"), list) and _has_tao_videos(document.get("videos")):
        return "in the form of TAO, whose objects are boxes; mdqe import needs masks"
    if str(document.get("format", "")).startswith("mdqe"):
        return "a result of mdqe segment; mdqe write writes it in other formats"
    if "videos" in document and "images" not in document:
        return "in the form of YouTube-VIS already: it has videos and no images"
    return None


def other_form_of(source: Path) -> str | None:
    """What the first JSON file of a folder is, with its path; None if there is none, or it is unknown."""
    first = next((paths[0] for paths in video_folders(source, ".json").values()), None)
    if first is None:
        return None
    form = other_form(load_json(first, "").document)
    return None if form is None else f"{first} is {form}"


def _has_tao_videos(videos: Any) -> bool:
    """Whether the videos list the categories that are known to be absent, as TAO's do."""
    first = videos[0] if isinstance(videos, list) and videos else None
    return isinstance(first, Mapping) and any(key in first for key in _TAO_KEYS)
