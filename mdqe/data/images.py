"""Image files for training, checked before training starts so that a run does not fail hours later."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mdqe.errors import InputError
from mdqe.video.frames import require_regular
from mdqe.video.images import load_image, require_one_image

if TYPE_CHECKING:
    from torch import Tensor

_THREADS = 8
_PER_BATCH = 4096
WRONG_SIZE = "images differ in size from their annotations"
_TURNED = range(5, 9)  # EXIF orientations that exchange height and width


def read_image(path: str | Path) -> "Tensor":
    """An image file as (H, W, 3) uint8, RGB, as inference reads it.

    Raises:
        InputError: the file is missing or damaged.
    """
    import torch  # not needed to check headers

    try:
        return torch.from_numpy(load_image(path))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error


def image_problems(images: Iterable[tuple[Path, tuple[int, int]]]) -> Iterator[tuple[str, str] | None]:
    """The problem of each image file: a kind of problem and an example for `Problems.add`, or None.

    Several threads read the header and the last bytes of each file. Only a file that does not end like a JPEG is
    decoded.

    Args:
        images: paths, and the expected (H, W) of each.
    """
    images = iter(images)
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(images, _PER_BATCH)):
            yield from pool.map(image_problem, batch)


def image_problem(image: tuple[Path, tuple[int, int]]) -> tuple[str, str] | None:
    """The problem of one file of `image_problems`."""
    from PIL import Image, UnidentifiedImageError  # torchvision brings it

    path, size = image
    try:
        require_regular(path)
        with path.open("rb") as file, Image.open(file) as opened:
            require_one_image(opened, path)
            width, height = opened.size
            if "exif" in opened.info and opened.getexif().get(0x112) in _TURNED:
                width, height = height, width
            file.seek(-2, 2)
            if opened.format == "JPEG" and file.read() != b"\xff\xd9":
                read_image(path)
    except FileNotFoundError:
        return "images are missing", str(path)
    except UnidentifiedImageError:
        return "files are not images", str(path)
    except InputError as error:
        return "images cannot be used", str(error)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return "images are damaged", f"{path} ({error})"
    if (height, width) != size:
        return WRONG_SIZE, f"{path} ({width}x{height}, not {size[1]}x{size[0]})"
    return None
