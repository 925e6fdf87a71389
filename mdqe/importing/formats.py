"""The formats by name, and which one a source is in."""

from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing import FORMATS
from mdqe.importing.document import Gathering
from mdqe.importing.source import Source


def import_annotations(
    source: str | Path,
    *,
    format: str | None = None,
    images: str | Path | None = None,
    categories: Sequence[str] | None = None,
    notes: Problems | None = None,
) -> dict[str, Any]:
    """Annotations of videos in another format as a YouTube-VIS document.

    Args:
        source: a file or folder.
        format: one of FORMATS; None: the one that it is recognised as.
        images: the folder of the frames; None: where the format has it.
        categories: names in the order of their ids 1, 2, …; others are left out. None: those of the source, or all that
            occur, by name.
        notes: takes what is left out, and what is worth a look.

    Returns:
        "videos", "categories" and "annotations", as training and evaluation read them. The files of the frames are
        relative to `images`; "track_id" of an annotation is what the source calls the object.

    Raises:
        OSError, ValueError: something is missing, or wrong; one line names the file, the record and the field.
        ImportError: pillow is not installed.
    """
    notes = Problems() if notes is None else notes
    opened = open_source(Path(source), format, None if images is None else Path(images), notes)
    gathering = Gathering(opened, notes, categories)
    for _ in gathering.read():
        pass
    return gathering.document()


def open_source(
    source: Path,
    format: str | None,
    images: Path | None,
    notes: Problems,
    *,
    videos: Collection[str] | None = None,
    ignore: Collection[int] = (),
) -> Source:
    """Open a source.

    Args:
        source, format, images, notes: as in `import_annotations`.
        videos: names of those to read; None: all.
        ignore: numbers in PNG images of ids that are no objects, besides 0.

    Raises:
        OSError, ValueError: as `import_annotations`.
    """
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    name = format or recognise(source)
    if name not in FORMATS:
        raise InputError(f"format is {name!r}; expected one of {', '.join(FORMATS)}")
    if ignore and name != "id-png":
        raise InputError(f"numbers to ignore are for id-png; {source} is read as {name}")
    options = {"ignore": ignore} if ignore else {}
    opened = _module(name).open_source(source, images, notes, **options)
    if not opened.videos:
        raise InputError(f"{source} has no video in the form {name}: {FORMATS[name]}")
    if videos is None:
        return opened
    if missing := [one for one in videos if one not in {video.name for video in opened.videos}]:
        raise InputError(f"{source} has no video {missing[0]!r}, which was asked for")
    return opened._replace(videos=[video for video in opened.videos if video.name in videos])


def recognise(source: Path) -> str:
    """The name of the format of a source.

    Raises:
        ValueError: it is in none, or may be in several.
    """
    found = [name for name in FORMATS if _module(name).recognises(source)]
    if not found:
        raise InputError(f"{source} is in no format that is known; --format names one of {', '.join(FORMATS)}")
    if len(found) > 1:
        raise InputError(f"{source} may be {' or '.join(found)}; --format names the one it is")
    return found[0]


def _module(name: str) -> ModuleType:
    return import_module("mdqe.importing." + name.replace("-", "_"))
