"""The pictures of curves: which categories they show."""

from xml.etree import ElementTree

import numpy as np
import pytest

from mdqe.pages.curves import draw_curves

pytest.importorskip("matplotlib")


def numbers(count: int) -> dict:
    """Categories with 1, 2, … objects; the curve of a category at an IoU threshold is constant."""
    lines = np.repeat(np.linspace(0.9, 0.1, 10)[:, None], 101, axis=1)
    return {
        "precision_curves": dict.fromkeys(range(count), lines),
        "per_category": {i: {"name": f"name {i} <&>", "objects": 1 + i} for i in range(count)},
    }


def texts(picture: bytes) -> str:
    """The comments of the picture, in which matplotlib keeps its texts, which are drawn as shapes."""
    ElementTree.fromstring(picture)
    return picture.decode()


@pytest.mark.parametrize(("count", "panels", "missing"), [(1, 1, 0), (2, 3, 0), (11, 12, 0), (1196, 12, 1185)])
def test_small_pictures_of_the_categories_with_most_objects(count, panels, missing):
    shown = texts(draw_curves(numbers(count)))
    assert shown.count("AP 50.0 -->") == panels
    assert (f"{missing} more categories are in precision_recall.csv" in shown) == bool(missing)
    assert (f"all {count} categories" in shown) == (count > 1)
    assert f"name {count - 1} " in shown and (f"name {count - 12} " in shown) == (1 <= count - 11 <= 0)
