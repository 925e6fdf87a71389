"""The benchmarks by name, and how the benchmark of a file or folder is recognised."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from mdqe.annotations import burst
from mdqe.annotations.burst import ALL_CLASSES
from mdqe.annotations.files import ANNOTATIONS, Loaded, Source
from mdqe.annotations.reader import IMAGES, VIDEOS, Annotations, load_annotations
from mdqe.errors import InputError
from mdqe.evaluation import hqvis, lvvis, mots_files
from mdqe.evaluation.burst import evaluate_burst
from mdqe.evaluation.coco import evaluate_coco
from mdqe.evaluation.hqvis import evaluate_hqvis
from mdqe.evaluation.lvvis import evaluate_lvvis
from mdqe.evaluation.mots import evaluate_mots
from mdqe.evaluation.ytvis import evaluate_ytvis

BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    "ytvis": evaluate_ytvis,
    "ovis": evaluate_ytvis,
    "coco": evaluate_coco,
    "lvvis": evaluate_lvvis,
    "hqvis": evaluate_hqvis,
    "burst": evaluate_burst,
    "mots": evaluate_mots,
}
"""The functions that compare results with annotations, by the name of the benchmark."""

FOLDERS = ("burst", "mots")
"""Benchmarks whose annotations are folders."""

TUBES = ("ytvis", "ovis", "lvvis", "hqvis")
"""The benchmarks of results with scores and masks over whole videos, as `mdqe.evaluation.tubes` compares them."""


def evaluate(annotations: Source, results: Source, *, benchmark: str | None = None, **options: Any) -> dict[str, Any]:
    """Compare results with the annotations of a benchmark.

    Args:
        annotations: the official file or folder of the annotations, or the loaded JSON.
        results: the official file or folder of the results, or the loaded JSON.
        benchmark: a name of `BENCHMARKS`; None: recognise it from the annotations.
        options: of the function of the benchmark, such as `score_threshold`.

    Returns:
        The metrics, described at the function of the benchmark. "official" has those of the official evaluator, with
        its structure and names.

    Raises:
        OSError: a file cannot be read.
        InputError: an unknown benchmark, or files of another one; a file is invalid. The message names the file, the
            record and the field.
    """
    if benchmark is not None and benchmark not in BENCHMARKS:
        raise InputError(f"benchmark is {benchmark!r}; expected one of {', '.join(BENCHMARKS)}")
    name = benchmark or recognise_folder(annotations)
    if name in FOLDERS:
        return BENCHMARKS[name](annotations, results, **options)
    source = annotations if isinstance(annotations, Annotations) else load_annotations(annotations)
    recognised = recognise(source)
    name = benchmark or recognised
    return BENCHMARKS[name](source, results, **options)


def check_annotations(benchmark: str, annotations: Loaded, read: Annotations) -> None:
    """Raise the InputError of `evaluate` for annotations of another benchmark, before results exist."""
    read.expect(IMAGES if benchmark == "coco" else VIDEOS, f"; the benchmark is {benchmark}")
    if benchmark == "lvvis":
        lvvis.partitions(annotations)


def recognise_folder(annotations: Source) -> str | None:
    """The name of the benchmark of a folder; None for files, and for folders with annotations.json.

    Raises:
        InputError: the folder contains folders of PNG images that are not those of MOTS, such as frames.
    """
    if not isinstance(annotations, str | PathLike):
        return None
    path = Path(annotations)
    if path.name == ALL_CLASSES or (path / ALL_CLASSES).is_file():
        return "burst"
    if path.is_dir() and not (path / ANNOTATIONS).is_file():
        return "mots" if mots_files.recognises(path) else None
    return "mots" if path.is_file() and mots_files.is_map(path) else None


def recognise(annotations: Annotations | Loaded) -> str:
    """The name of the benchmark of annotations.

    Raises:
        InputError: they are one of the files of BURST.
    """
    document = {} if isinstance(annotations, Annotations) else annotations.document
    if not isinstance(document, Mapping):
        return "ytvis"
    if isinstance(annotations, Loaded) and burst.recognises(document):
        raise InputError(f"{annotations.name} is a file of BURST, whose annotations are a folder with {ALL_CLASSES}")
    if "images" in document and "videos" not in document:
        return "coco"
    if lvvis.recognises(document):
        return "lvvis"
    return "hqvis" if hqvis.recognises(document) else "ytvis"
