"""Outlines of masks as polygons, for tools in which people draw."""

from typing import NamedTuple

import numpy as np

from mdqe.annotations.masks import fill
from mdqe.results import rle


class Outline(NamedTuple):
    """The polygons of a mask."""

    polygons: list[np.ndarray]
    """(P, 2) each, x and y of the corners; pixel (0, 0) extends from 0 to 1. The largest first; at least one."""
    wrong: int
    """The number of pixels in which the polygons differ from the mask."""


def outline(counts: str, size: tuple[int, int], tolerance: float, most: int | None = None) -> Outline:
    """The outline of a mask with at least one pixel, without its holes.

    Args:
        counts: the RLE of the mask.
        size: H and W.
        tolerance: the largest distance in pixels of the true outline from that of the polygons. With 0, only holes, and
            polygons beyond `most`, are lost.
        most: the number of polygons to keep, the largest; None: all.
    """
    (mask,) = rle.decode([counts], size)
    loops = [loop for loop in trace(mask) if mask[loop[0, 1], loop[0, 0]]]  # the others are of holes
    loops = sorted(loops, key=_area, reverse=True)[:most]
    polygons = [simplify(loop, tolerance) for loop in loops]
    drawn = fill([polygon.ravel().astype(np.float64) for polygon in polygons], size)
    return Outline(polygons, int((drawn != mask).sum()))


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """The edges between the pixels of a mask (H, W) and the others, as closed loops of corners (P, 2), x and y.

    Each loop begins at the leftmost of its highest corners: the pixel to the right of and below that corner belongs to
    the mask in a loop around an object, and not in a loop around a hole. Pixels that touch at a corner are connected.
    Along a row of the grid of corners, edges connect the first corner to the second, the third to the fourth, and so
    on; likewise along a column. A corner at which two pixels touch occurs twice.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    above, below = padded[:-1], padded[1:]
    a, b, c, d = above[:, :-1], above[:, 1:], below[:, :-1], below[:, 1:]  # (H + 1, W + 1), around each corner
    touching = (a == d) & (b == c) & (a != b)
    y, x = np.nonzero(((a + b + c + d) % 2 == 1) | touching)
    twice = touching[y, x].astype(np.int64)
    y, x, falling = np.repeat(y, 1 + twice), np.repeat(x, 1 + twice), np.repeat(a[y, x] * twice, 1 + twice)
    # Rows: nonzero sorts by y and x. Columns: of two corners at one place, the first connects to the left and upward
    # unless the touching pixels are those on the falling diagonal; then it connects to the left and downward.
    place = np.arange(len(y))
    second = np.concatenate([[False], (y[1:] == y[:-1]) & (x[1:] == x[:-1])]) if len(y) else np.zeros(0, bool)
    columns = np.lexsort((np.where(falling == 1, ~second, second), y, x))
    beside, below_or_above = _partners(place), _partners(columns)
    left = np.ones(len(y), bool)
    loops = []
    corners = np.stack([x, y], axis=1)
    for start in range(len(y)):
        if left[start]:
            loop, one = [], start
            while left[one]:
                other = beside[one]
                left[one] = left[other] = False
                loop += [one, other]
                one = below_or_above[other]
            loops.append(corners[loop])
    return loops


def simplify(loop: np.ndarray, tolerance: float) -> np.ndarray:
    """The corners (P, 2) of a loop without those that are not needed, by the method of Douglas and Peucker.

    No removed corner is more than `tolerance` away from the edge that replaces it. If fewer than three corners would be
    left, the loop is unchanged.
    """
    if tolerance <= 0:
        return loop
    points = np.concatenate([loop, loop[:1]]).astype(np.float64)
    kept = np.zeros(len(points), bool)
    far = int(np.hypot(*(points - points[0]).T).argmax())
    kept[[0, far, -1]] = True
    parts = [(0, far), (far, len(points) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first > 1:
            away = _distances(points[first + 1 : last], points[first], points[last])
            place = first + 1 + int(away.argmax())
            if away.max() > tolerance:
                kept[place] = True
                parts += [(first, place), (place, last)]
    found = loop[kept[:-1]]
    return found if len(found) >= 3 else loop


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distances (P,) of points (P, 2) from the segment between two others."""
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(points - start - share[:, None] * along).T)


def _partners(order: np.ndarray) -> list[int]:
    """For each corner the one that an edge connects it to, for corners in this order."""
    found = np.empty(len(order), np.int64)
    found[order[0::2]], found[order[1::2]] = order[1::2], order[0::2]
    return found.tolist()


def _area(loop: np.ndarray) -> float:
    """The area in a loop."""
    x, y = loop.T.astype(np.float64)
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
