"""CVAT for video 1.1: an XML file with a track for each object and a shape for each frame where it is visible."""

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import Track
from mdqe.errors import printable
from mdqe.results import rle
from mdqe.writing.clips import Clip, track_numbers
from mdqe.writing.labelme import LOST
from mdqe.writing.outlines import outline
from mdqe.writing.pngs import note_crowds

_MOST = 2**31 - 1


def cvat_files(clip: Clip, notes: Problems, tolerance: float | None = None) -> Iterator[tuple[str, bytes]]:
    """The XML file.

    Args:
        clip: the video.
        notes: receives what polygons cannot hold, and crowd regions.
        tolerance: of polygons, in pixels; None: masks. A track has one polygon in a frame, the largest.
    """
    objects = clip.objects()
    note_crowds(clip, notes)
    labels = sorted({clip.category(track) for track in objects})
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>", *_meta(clip, labels)]
    wrong = np.zeros(len(clip.files), np.int64)
    for track, number in zip(objects, track_numbers(clip, objects, 0, _MOST, notes), strict=True):
        lines.append(f'<track id="{number}" label={_quoted(clip.category(track))} source="auto">')
        lines += _shapes(track, clip.size, tolerance, wrong)
        lines.append("</track>")
    for t in np.flatnonzero(wrong):
        notes.add(LOST, clip.files[t], int(wrong[t]))
    yield f"{clip.name}.xml", "\n".join([*lines, "</annotations>", ""]).encode("utf-8")


def _meta(clip: Clip, labels: list[str]) -> list[str]:
    length = len(clip.files)
    return [
        "<meta><task>",
        f"<name>{escape(printable(clip.name, 1000))}</name>",
        f"<size>{length}</size><mode>interpolation</mode><overlap>0</overlap>",
        f"<start_frame>0</start_frame><stop_frame>{length - 1}</stop_frame><frame_filter></frame_filter>",
        "<labels>",
        *(f"<label><name>{escape(printable(one, 1000))}</name><attributes></attributes></label>" for one in labels),
        "</labels>",
        f"<original_size><width>{clip.size[1]}</width><height>{clip.size[0]}</height></original_size>",
        "</task></meta>",
    ]


def _shapes(track: Track, size: tuple[int, int], tolerance: float | None, wrong: np.ndarray) -> Iterator[str]:
    """The elements of a track. Where it disappears, its last shape is marked as outside, until it appears again."""
    last = ""
    for t, counts in enumerate(track.masks):
        if counts is None:
            if last:
                yield last.format(frame=t, outside=1)
            last = ""
            continue
        if tolerance is None:
            last = _mask(str(counts), size)
        else:
            (polygon,), lost = outline(str(counts), size, tolerance, most=1)
            wrong[t] += lost
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon)
            last = _element("polygon", f'points="{points}"')
        yield last.format(frame=t, outside=0)


def _mask(counts: str, size: tuple[int, int]) -> str:
    """A mask, as run lengths within its box, row by row."""
    (mask,) = rle.decode([counts], size)
    left, top, right, bottom = rle.boxes([counts], size)[0].astype(int).tolist()
    inside = mask[top:bottom, left:right]
    lengths, _ = rle.run_lengths(rle.encode(inside.T[None]), (right - left, bottom - top))
    box = f'left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
    return _element("mask", f'rle="{", ".join(map(str, lengths.tolist()))}" {box}')


def _element(tag: str, shape: str) -> str:
    """A shape, in which the frame and whether it is outside are still open."""
    return f'<{tag} frame="{{frame}}" keyframe="1" outside="{{outside}}" occluded="0" {shape} z_order="0"></{tag}>'


def _quoted(text: str) -> str:
    return quoteattr(printable(text, 1000))
