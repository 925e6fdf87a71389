"""Contact sheets."""

import numpy as np
import pytest
from PIL import Image

from mdqe.video.sheet import choose_frames, contact_sheet, save_png


def test_chosen_frames_are_spread_from_first_to_last():
    assert choose_frames(100, 4) == [0, 33, 66, 99]
    assert choose_frames(3) == [0, 1, 2]
    assert choose_frames(1) == [0]
    assert choose_frames(0) == []
    assert len(choose_frames(1000)) == 12


@pytest.mark.parametrize(("size", "columns"), [((90, 160), 4), ((160, 90), 6), ((900, 1600), 4)])
def test_every_frame_is_on_the_sheet_in_its_place(size, columns):
    images = [np.full((*size, 3), 20 * (i + 1), np.uint8) for i in range(7)]
    sheet = contact_sheet(images, [f"frame {i}" for i in range(7)])
    assert sheet.shape[1] <= 1600
    wide = min(size[1], (1600 - 8) // columns - 8)
    high = round(size[0] * wide / size[1])
    line = (sheet.shape[0] - 8) // (-(-7 // columns)) - high - 8
    for i in range(7):
        top, left = 8 + i // columns * (high + line + 8), 8 + i % columns * (wide + 8)
        assert (sheet[top : top + high, left : left + wide] == 20 * (i + 1)).all()
        caption = sheet[top + high : top + high + line, left : left + wide]
        assert caption.max() > 150


def test_saved_whole_or_not_at_all(tmp_path):
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    save_png(image, tmp_path / "x.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    with pytest.raises(OSError, match="missing"):
        save_png(image, tmp_path / "missing" / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
