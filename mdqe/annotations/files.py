"""The files of data sets and results: where they are, and the JSON in them."""

from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from mdqe.files import Hook, expanded, read_json

ANNOTATIONS, FRAMES = "annotations.json", "JPEGImages"

Source = str | PathLike[str] | Any
"""A path, the document that a JSON file there would contain, or a `Loaded` file."""


class Loaded(NamedTuple):
    """The content of a JSON file."""

    name: str
    """What errors call the file."""
    document: Any


class DataFiles(NamedTuple):
    """Where a data set is."""

    annotations: Path
    images: Path
    """The folder that file names are relative to; it may not exist."""
    names_images: bool
    """Whether the user named the folder of the images, or one that contains it."""

    def require_images(self) -> Path:
        """The folder of the images.

        Raises:
            FileNotFoundError: it does not exist.
        """
        if not self.images.is_dir():
            raise FileNotFoundError(f"no such folder: {self.images}, for the images of {self.annotations}")
        return self.images


def find_data(name: str | Path) -> DataFiles:
    """The files of a data set.

    Args:
        name: an annotation file, FILE@IMAGES with the folder of its images, or a folder that contains annotations.json.
            By default, the images are in JPEGImages beside the file, else in JPEGImages in a folder with the name of
            the file, else in the folder of the file.

    Raises:
        FileNotFoundError: the annotation file does not exist.
    """
    path, folder = expanded(name), ""
    if not path.exists() and "@" in str(name):
        text, _, folder = str(name).rpartition("@")
        path = expanded(text)
    is_folder = path.is_dir()
    if is_folder:
        path = path / ANNOTATIONS
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; expected FILE, FILE@IMAGES or a folder with {ANNOTATIONS}")
    choices = [path.parent / FRAMES, path.parent / path.stem / FRAMES, path.parent]
    images = expanded(folder) if folder else next(choice for choice in choices if choice.is_dir())
    return DataFiles(path, images, is_folder or bool(folder))


def load_json(source: Source, name: str, hook: Hook | None = None) -> Loaded:
    """The content of a source. Errors call it by its path, or by `name` if it has no path.

    Args:
        source: what to load.
        name: of a document that is passed in memory.
        hook: replaces every object of a file while the file is parsed.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not JSON.
    """
    if isinstance(source, Loaded):
        return source
    if not isinstance(source, str | PathLike):
        return Loaded(name, source)
    path = Path(source)
    if (path / ANNOTATIONS).is_file():  # the folder of a data set
        path = path / ANNOTATIONS
    return Loaded(str(path), read_json(path, max_bytes=None, hook=hook))
