"""The files of KITTI MOTS and MOTSChallenge: text files or PNG images, sequence maps, and the lengths of sequences."""

import configparser
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mdqe.annotations import mots
from mdqe.annotations.files import ANNOTATIONS
from mdqe.annotations.mots import CATEGORIES, CLASS_STEP, IGNORED, Line, expected_class, has_class, read_lines
from mdqe.errors import InputError
from mdqe.evaluation.overlap import frame_overlap
from mdqe.video.id_images import first_numbers, masks, read_numbers

CHALLENGE = Path("gt", "gt.txt")
_TRUTH_FOLDERS = ("label_02", "instances_txt", "instances")
_RESULT_FOLDERS = ("data",)
_MAPS = ("*.seqmap", "*.seqmap.*")
MOST_FRAMES = 10**6
"""Of a sequence."""

Frames = dict[int, list[Line]]
"""The objects of a sequence by the number of the frame."""


class Sequences(NamedTuple):
    """The sequences of a set."""

    paths: dict[str, Path]
    """The file, or the folder of images, of each sequence."""
    lasts: dict[str, int | None]
    """The number of the last frame; None where no file has it."""
    first: int
    """The number of the first frame: 1 in MOTSChallenge, otherwise 0."""


def find_truth(folder: Path) -> Sequences:
    """The annotated sequences of a folder, or those that a sequence map lists.

    Args:
        folder: the annotations, or a folder that contains them as label_02, instances_txt or instances; SEQUENCE.txt or
            SEQUENCE/000000.png in KITTI MOTS, SEQUENCE/gt/gt.txt and SEQUENCE/seqinfo.ini in MOTSChallenge; or a file
            with a sequence map.

    Raises:
        OSError: a file or folder does not exist.
        InputError: there are no sequences, or several sequence maps, or the map lists a sequence that does not exist.
    """
    listed = folder if folder.is_file() else None
    if listed and not is_map(listed):
        raise InputError(f"{folder} is a file; expected the folder of the annotations of MOTS, or a sequence map")
    home = folder.parent if listed else folder
    challenge = _challenge(home)
    if challenge:
        paths = {path.parents[1].name: path for path in challenge}
        chosen = _read_map(listed, paths, home) if listed else dict.fromkeys(paths)
        lasts = {name: _length(paths[name].parents[1]) or last for name, last in chosen.items()}
        return Sequences({name: paths[name] for name in chosen}, lasts, 1)
    found = _truth(home)
    if not found:
        raise InputError(
            f"{folder} has no sequences of MOTS: no SEQUENCE.txt, SEQUENCE/000000.png or SEQUENCE/{CHALLENGE}"
        )
    if listed:
        lasts = _read_map(listed, found, home)
        return Sequences({name: found[name] for name in lasts}, lasts, 0)
    maps = sorted({one for place in (home, home.parent) for kind in _MAPS for one in place.glob(kind)})
    known = {path: _read_map(path) for path in maps}
    known = {path: lasts for path, lasts in known.items() if lasts and lasts.keys() <= found.keys()}
    if len(known) > 1:
        raise InputError(
            f"{home} has several sequence maps: {', '.join(map(str, known))}; name one of them instead of the folder"
        )
    for lasts in known.values():
        return Sequences({name: found[name] for name in lasts}, dict(lasts), 0)
    return Sequences(found, dict.fromkeys(found), 0)


def find_results(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The files of results of sequences: SEQUENCE.txt or SEQUENCE/000000.png in a folder, or in its folder data.

    Raises:
        FileNotFoundError: a sequence has no results; an empty file is a sequence without results.
        InputError: it is a file.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file; results of MOTS are a folder with SEQUENCE.txt or SEQUENCE/000000.png")
    # Beside the folder data, TrackEval writes text files that are not results.
    found = max(_sequences(folder, _RESULT_FOLDERS), key=lambda place: len(place.keys() & {*names}), default={})
    for name in names:
        if name not in found:
            raise FileNotFoundError(f"no such file: {folder / name}.txt, the results of a sequence; it may be empty")
    return found


def recognises(folder: Path) -> bool:
    """Whether a folder contains sequences of MOTS.

    Raises:
        InputError: it contains folders of other PNG images, such as the frames of videos.
    """
    if not folder.is_dir():
        return False
    if _challenge(folder):
        return True
    found = _truth(folder).values()
    images = (path for sequence in found if sequence.is_dir() for path in sorted(sequence.glob("*.png")))
    if (first := first_numbers(images)) is not None:
        path, numbers = first
        wrong = [] if numbers is None else [number for number in numbers if not has_class(number)]
        if numbers is None or wrong:
            problem = f"has the value {wrong[0]}" if wrong else "has colours"
            raise InputError(
                f"{path} {problem}; the images of MOTS have one channel of 16 bits with 1000 · class + instance, where "
                f"class is {', '.join(map(str, CATEGORIES))} or {IGNORED}. Other annotations are a file, or a folder "
                f"with {ANNOTATIONS}"
            )
    return any(path.is_dir() or mots.recognises(path) for path in found)


def is_map(path: Path) -> bool:
    """Whether a file is a sequence map by its name."""
    return any(path.match(kind) for kind in _MAPS)


def read_sequence(path: Path) -> Frames:
    """The objects and regions of a sequence.

    Raises:
        OSError: the file cannot be read.
        InputError: it is invalid, frames have different sizes, an object is twice in a frame, or masks overlap.
    """
    frames: Frames = {}
    for number, line in _read_images(path) if path.is_dir() else read_lines(path):
        if number > MOST_FRAMES:
            raise InputError(f'{line.label}: "time_frame" is {number}; expected at most {MOST_FRAMES}')
        frames.setdefault(number, []).append(line)
    size = next((line.size for part in frames.values() for line in part), None)
    for number, part in frames.items():
        for line in part:
            if line.size != size:
                raise InputError(
                    f"{line.label}: the size of the image is {list(line.size)}; before, it was {list(size or ())}"
                )
        objects = Counter(line.object for line in part if line.kind != IGNORED)
        if twice := [one for one, count in objects.items() if count > 1]:
            raise InputError(f"{path}: frame {number}: object {twice[0]} appears twice")
        if _overlap([line.counts for line in part], part[0].size):
            raise InputError(f"{path}: frame {number}: masks overlap; in MOTS, a pixel belongs to one object")
    return frames


def _overlap(counts: Sequence[str], size: tuple[int, int]) -> bool:
    """Whether masks share a pixel."""
    if len(counts) < 2:
        return False
    pixels = frame_overlap(counts, counts, size)
    return bool(pixels.shared.sum() > pixels.results.sum())  # each mask shares its own pixels with itself


def _read_images(folder: Path) -> Iterator[tuple[int, Line]]:
    for path in sorted(folder.glob("*.png")):
        if not re.fullmatch("[0-9]{1,9}", path.stem):
            raise InputError(f"{path}: expected the number of a frame as the name, such as 000000.png")
        values = read_numbers(path)
        if values is None:
            raise InputError(f"{path} has colours; expected one channel with object ids")
        for value, counts in masks(values):
            kind = value // CLASS_STEP
            if kind not in CATEGORIES and kind != IGNORED:
                raise InputError(f"{path}: value {value}: class is {kind}; {expected_class()}")
            yield int(path.stem), Line(f"{path}: value {value}", value, kind, values.shape, counts)


def _challenge(folder: Path) -> list[Path]:
    """The gt/gt.txt of the sequences of MOTSChallenge, in the folder or in one of its folders, or of one sequence."""
    for pattern in (CHALLENGE, Path("*") / CHALLENGE, Path("*") / "*" / CHALLENGE):
        if found := sorted(folder.glob(str(pattern))):
            return found
    return []


def _length(folder: Path) -> int | None:
    """The number of frames of a sequence of MOTSChallenge, from its seqinfo.ini."""
    path = folder / "seqinfo.ini"
    if not path.is_file():
        return None
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(errors="replace"))
        text = parser["Sequence"]["seqLength"]
    except (configparser.Error, KeyError) as error:
        raise InputError(f"{path} has no seqLength of a [Sequence]: {' '.join(str(error).split())}") from None
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > MOST_FRAMES:
        raise InputError(f'{path}: "seqLength" is {text[:40]!r}; expected a number of at most {MOST_FRAMES} frames')
    return int(text)


def _truth(folder: Path) -> dict[str, Path]:
    """The annotated sequences of a folder: those of the first place with any that are in the form of MOTS."""
    places = _sequences(folder, _TRUTH_FOLDERS)
    known = (one for one in places if any(path.is_dir() or mots.recognises(path) for path in one.values()))
    return next(known, places[0] if places else {})


def _sequences(folder: Path, inside: Sequence[str]) -> list[dict[str, Path]]:
    """The files SEQUENCE.txt, or the folders of PNG images, in a folder and in each of its folders `inside`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    places = []
    for place in filter(Path.is_dir, (folder, *(folder / name for name in inside))):
        texts = {path.stem: path for path in sorted(place.glob("*.txt"))}
        images = {path.name: path for path in sorted(place.iterdir()) if path.is_dir() and any(path.glob("*.png"))}
        if texts or images:
            places.append(texts or images)
    return places


def _read_map(path: Path, known: Container[str] | None = None, home: Path | None = None) -> dict[str, int | None]:
    """The sequences of a map and the numbers of their last frames; "0002 empty 000000 000232" has 233 frames.

    Args:
        path: the map.
        known: the sequences of the folder `home`; if given, the map must list some of them and no others.
    """
    lasts: dict[str, int | None] = {}
    for i, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 4 or not re.fullmatch("[0-9]{1,9}", fields[3]) or int(fields[3]) > MOST_FRAMES:
            raise InputError(f"{path}: line {i} is {line[:60]!r}; expected SEQUENCE empty FIRST LAST")
        name = f"{int(fields[0]):04}" if re.fullmatch("[0-9]{1,9}", fields[0]) else fields[0]
        lasts[name] = int(fields[3])
    if known is not None:
        if missing := [name for name in lasts if name not in known]:
            raise InputError(f"{path} lists the sequence {missing[0]}, which is not in {home}")
        if not lasts:
            raise InputError(f"{path} lists no sequence; expected lines with SEQUENCE empty FIRST LAST")
    return lasts
