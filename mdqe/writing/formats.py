"""Results written in a format by name. A video's files appear when all of them are complete."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.files import check_writable, whole_file
from mdqe.writing import DOCUMENTS, FORMATS, OUTLINED
from mdqe.writing.clips import Clip, open_clips
from mdqe.writing.cvat import cvat_files
from mdqe.writing.documents import Document
from mdqe.writing.labelme import labelme_files
from mdqe.writing.mots import mots_files, mots_png_files
from mdqe.writing.pngs import davis_files, id_png_files

Files = Callable[[Clip, Problems, float | None], Iterator[tuple[str, bytes]]]

_FILES: dict[str, Files] = {
    "id-png": id_png_files, "davis": davis_files, "mots": mots_files, "mots-png": mots_png_files, "cvat": cvat_files,
    "labelme": labelme_files,
}  # fmt: skip


def write_results(
    results: str | Path,
    output: str | Path,
    *,
    format: str,
    data: str | Path | None = None,
    images: str | Path | None = None,
    score_threshold: float = 0.3,
    polygons: float | None = None,
    overwrite: bool = False,
    notes: Problems | None = None,
) -> int:
    """Write results in a format that `mdqe import` reads.

    Args:
        results: instances.json of `mdqe segment`, the folder of such results, or results or annotations in the form of
            YouTube-VIS.
        output: the JSON file for "coco", "burst" and "ytvis", which replaces an existing file; otherwise a folder.
        format: one of `mdqe.writing.FORMATS`.
        data: annotations with the names, frames and categories of results in the form of YouTube-VIS.
        images: the folder of the frames, with a folder per video, for results that do not name their frames; by default
            frames are 00000, 00001, ….
        score_threshold: the minimum score of a track.
        polygons: for "cvat" and "labelme", write polygons instead of masks, whose outline is at most so many pixels
            away from that of the masks.
        overwrite: replace files in the folder.
        notes: receives what is left out, and what the format cannot hold.

    Returns:
        The number of videos.

    Raises:
        OSError, InputError: something is missing or invalid, or a file exists. The message names it. The videos before
            it are complete, and nothing is left of the one that failed; of a JSON file, nothing is written.
        DependencyError: Pillow is not installed, for the formats with images.
    """
    notes = Problems() if notes is None else notes
    where = [None if one is None else Path(one) for one in (data, images)]
    clips = open_clips(Path(results), notes, data=where[0], images=where[1], threshold=score_threshold)
    for _ in write_clips(clips.items, Path(output), format, notes, polygons=polygons, overwrite=overwrite):
        pass
    return clips.number


def write_clips(
    clips: Iterable[Clip],
    output: Path,
    format: str,
    notes: Problems,
    *,
    polygons: float | None = None,
    overwrite: bool = False,
) -> Iterator[str]:
    """Write videos; yields their names. Arguments and errors: `write_results`."""
    if format not in FORMATS:
        raise InputError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    if polygons is not None and format not in OUTLINED:
        raise InputError(f"polygons are for {' and '.join(OUTLINED)}; the format is {format}")
    if format in DOCUMENTS:
        yield from _write_document(clips, output, Document(format, notes))
        return
    check_writable(output)
    for clip in clips:
        _write_files(_FILES[format](clip, notes, polygons), output, overwrite)
        yield clip.name


def _write_document(clips: Iterable[Clip], output: Path, document: Document) -> Iterator[str]:
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"no such folder: {output.absolute().parent}")
    for clip in clips:
        document.add(clip)
        yield clip.name
    with whole_file(output) as partial:
        partial.write_text(json.dumps(document.build(), separators=(",", ":")), encoding="utf-8")


def _write_files(files: Iterable[tuple[str, bytes]], output: Path, overwrite: bool) -> None:
    """Write the files of a video in a hidden folder, then move all of them to their places."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output) as folder:
        written: list[tuple[Path, Path]] = []
        for name, data in files:
            partial, target = Path(folder, name), output / name
            if not overwrite and target.exists():
                raise FileExistsError(f"{target} exists; --overwrite replaces it")
            with _named(target):
                partial.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(data)
            written.append((partial, target))
        for partial, target in written:
            with _named(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(target)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An OSError of the block is one of this path, not of the partial file."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
