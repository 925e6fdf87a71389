"""The formats by name, and how the format of a source is recognised."""

from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing import FORMATS
from mdqe.importing.document import DocumentBuilder
from mdqe.importing.other_json import other_form_of
from mdqe.importing.source import Source


def import_annotations(
    source: str | Path,
    *,
    format: str | None = None,
    images: str | Path | None = None,
    categories: Sequence[str] | None = None,
    notes: Problems | None = None,
) -> dict[str, Any]:
    """Convert annotations of videos in another format to a YouTube-VIS document.

    Args:
        source: a file or folder.
        format: one of FORMATS; None: recognise it.
        images: the folder of the frames; None: the standard folder of the format.
        categories: names in the order of their ids 1, 2, …; others are left out. None: those of the source, or all that
            occur, in alphabetical order.
        notes: receives what is left out, and what should be checked.

    Returns:
        "videos", "categories" and "annotations", for training and evaluation. The files of the frames are relative to
        `images`; "track_id" of an annotation is the name of the object in the source.

    Raises:
        OSError, InputError: something is missing or invalid. The message names the file, the record and the field.
        DependencyError: Pillow is not installed.
    """
    notes = Problems() if notes is None else notes
    opened = open_source(Path(source), format, None if images is None else Path(images), notes)
    builder = DocumentBuilder(opened, notes, categories)
    for _ in builder.read():
        pass
    return builder.document()


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
        videos: the names of the videos to read; None: all.
        ignore: pixel values of id-png that are not objects, in addition to 0.

    Raises:
        OSError, InputError: as in `import_annotations`.
    """
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    name = format or recognise(source)
    if name not in FORMATS:
        raise InputError(f"format is {name!r}; expected one of {', '.join(FORMATS)}")
    if ignore and name != "id-png":
        raise InputError(f"values to ignore are for id-png; {source} is read as {name}")
    options = {"ignore": ignore} if ignore else {}
    opened = _module(name).open_source(source, images, notes, **options)._replace(path=source)
    if not opened.videos:
        raise InputError(f"{source} has no video in the form {name}: {FORMATS[name]}")
    if videos is None:
        return opened
    if missing := [one for one in videos if one not in {video.name for video in opened.videos}]:
        raise InputError(f"{source} has no video {missing[0]!r}")
    return opened._replace(videos=[video for video in opened.videos if video.name in videos])


def recognise(source: Path) -> str:
    """The name of the format of a source.

    Raises:
        InputError: no format, or several formats, fit the source.
    """
    found = [name for name in FORMATS if _module(name).recognises(source)]
    if not found:
        other = other_form_of(source)
        raise InputError(other or f"{source} is not in a known format; --format names one of {', '.join(FORMATS)}")
    if len(found) > 1:
        raise InputError(f"{source} may be {' or '.join(found)}; --format names the right one")
    return found[0]


def _module(name: str) -> ModuleType:
    return import_module("mdqe.importing." + name.replace("-", "_"))
