"""The videos of a run of `mdqe segment`: which they are, where their results go, which of them are done."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdqe import __version__
from mdqe.errors import InputError

PLACE_ALONE = ("mdqe", "device")
"""Settings that say where results were made, not what they are."""


def read_list(path: Path) -> list[str]:
    """The videos that a text file names, one a line; empty lines and those that begin with # are left out.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, or names none.
    """
    data = path.read_bytes()
    if b"\0" in data:
        raise InputError(f"{path} is not a list of videos: expected text with one on each line")
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]
    videos = [os.fsdecode(line) for line in lines if line and not line.startswith(b"#")]
    if not videos:
        raise InputError(f"{path} names no videos")
    return videos


def folders(output: Path, videos: Sequence[str]) -> list[Path]:
    """A folder for each video, named after it; of equal names the later ones get a number."""
    found: dict[Path, None] = {}
    for video in videos:
        path = Path(video)
        name = path.name if path.is_dir() else path.stem
        if video.isdecimal() and not path.exists():
            name = f"camera{video}"
        name = re.sub(r"[^\w.-]+", "_", name).strip("._")  # a glob's own name may be stars alone
        name = name or (path.resolve() if path.is_dir() else path.resolve().parent).name
        folder, number = output / name, 2
        while folder in found:
            folder, number = output / f"{name}-{number}", number + 1
        found[folder] = None
    return list(found)


def notes(video: str, model: str, device: str, **settings: Any) -> dict[str, Any]:
    """What instances.json says about where it comes from."""
    return {"source": video, "model": model, "settings": {"mdqe": __version__, "device": device, **settings}}


def is_done(folder: Path, wanted: dict[str, Any], *, overlay: bool) -> bool:
    """Whether the folder holds whole results of the same video, model and settings.

    Args:
        folder: of the video's results.
        wanted: the `notes` of the run to come.
        overlay: an overlay video is wanted.
    """
    results = folder / "instances.json"
    pictures = [] if "://" in wanted["source"] else [folder / "sheet.png"]  # a stream that is not drawn has no sheet
    pictures += [folder / "overlay.mp4", folder / "sheet.png"] if overlay else []
    try:
        written = results.stat().st_mtime_ns
        if any(path.stat().st_mtime_ns < written for path in pictures):  # of an earlier run: this one was interrupted
            return False
        document = json.loads(results.read_bytes())
        return document["complete"] is True and _kind(document) == _kind(json.loads(json.dumps(wanted)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _kind(document: dict[str, Any]) -> tuple[Any, ...]:
    settings = {name: value for name, value in document["settings"].items() if name not in PLACE_ALONE}
    return document["source"], document["model"], settings
