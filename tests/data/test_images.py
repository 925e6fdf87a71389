"""Image files of every kind that training meets, and the problems that are found beforehand."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from mdqe.data.images import image_problems, read_image
from mdqe.errors import InputError
from mdqe.video.images import load_image

COLORS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path):
    """An image saved in every way."""
    smooth = Image.fromarray(COLORS).resize((60, 40), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x112] = 6
    kinds = {
        "rgb.jpg": (smooth, {}),
        "grey.jpg": (smooth.convert("L"), {}),
        "cmyk.jpg": (smooth.convert("CMYK"), {"quality": 95}),
        "turned.jpg": (smooth, {"exif": turned}),
        "progressive.jpg": (smooth, {"progressive": True}),
        "rgb.png": (smooth, {}),
        "alpha.png": (smooth.convert("RGBA"), {}),
        "palette.png": (smooth.quantize(40), {}),
        "deep.png": (Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27), {}),
        "rgb.webp": (smooth, {"lossless": True}),
    }
    for name, (image, options) in kinds.items():
        image.save(tmp_path / name, **options)
    return [tmp_path / name for name in kinds]


def test_every_kind_is_read_as_rgb(files):
    for path in files:
        image = read_image(path)
        assert image.dtype == torch.uint8 and image.shape == ((60, 40, 3) if path.name == "turned.jpg" else (40, 60, 3))
        assert np.array_equal(image, load_image(path)), path.name
    sizes = [(path, (60, 40) if path.name == "turned.jpg" else (40, 60)) for path in files]
    assert list(image_problems(sizes)) == [None] * len(files)


def test_problems(files, tmp_path):
    good = files[0].read_bytes()
    (tmp_path / "cut.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "longer.jpg").write_bytes(good + b"what some cameras write after the image")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    names = ("cut.jpg", "longer.jpg", "text.jpg", "empty.jpg", "none.jpg", "rgb.png")
    found = list(image_problems([(tmp_path / name, (40, 61 if name == "rgb.png" else 60)) for name in names]))
    assert [problem and problem[0] for problem in found] == [
        "images cannot be used",
        None,  # it can be decoded
        "files are not images",
        "files are not images",
        "images are missing",
        "images differ in size from their annotations",
    ]
    assert found[5][1] == f"{tmp_path / 'rgb.png'} (60x40, not 61x40)"
    for name, message in (("cut.jpg", "truncated"), ("text.jpg", "not an image"), ("none.jpg", "is missing")):
        with pytest.raises(InputError, match=rf"{name} .*{message}"):
            read_image(tmp_path / name)


@pytest.mark.timeout(20)
@pytest.mark.skipif(os.name != "posix", reason="needs pipes of POSIX")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (problem,) = image_problems([(tmp_path / "pipe.jpg", (40, 60))])
    assert problem is not None and "is a device, a pipe or a socket" in problem[1]
    with pytest.raises(InputError, match="is a device, a pipe or a socket"):
        read_image(tmp_path / "pipe.jpg")


def test_files_of_several_images_and_unknown_ranges(files, tmp_path):
    """The same rule as for inference: `read_image` and the check before training agree on every file."""
    pages = [Image.fromarray(COLORS + shade) for shade in range(3)]
    for name in ("moving.webp", "moving.png", "moving.gif", "pages.tiff"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.tiff")
    pages[0].save(tmp_path / "one.gif")
    pages[0].save(tmp_path / "preview.mpo", save_all=True, append_images=pages[1:])
    Image.fromarray(np.ones((20, 30), np.float32)).save(tmp_path / "float.tiff")
    messages = {
        **dict.fromkeys(("moving.webp", "moving.png", "moving.gif", "pages.tiff"), "contains 3 images; expected one"),
        "float.tiff": "has floating-point pixels",
        **dict.fromkeys(("one.tiff", "one.gif", "preview.mpo"), None),
    }
    found = image_problems([(tmp_path / name, (20, 30)) for name in messages])
    for (name, message), problem in zip(messages.items(), found, strict=True):
        if message is None:
            assert problem is None and read_image(tmp_path / name).shape == (20, 30, 3), name
            continue
        assert problem[0] == "images cannot be used" and f"{name} {message}" in problem[1]
        with pytest.raises(InputError, match=f"{name} {message}"):
            read_image(tmp_path / name)
