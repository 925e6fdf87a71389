"""The page of `mdqe view`, for stepping through the masks of a video, with prediction and ground truth side by side."""

from collections.abc import Sequence
from typing import Any

from mdqe.annotations.reader import Track
from mdqe.errors import InputError
from mdqe.pages.document import asset, document
from mdqe.pages.shown import PREDICTION, TRUTH, Shown, Side
from mdqe.video.overlay import FILL, text_color, track_color

FRAMES_PER_SECOND = 10.0  # if the source has no rate


def viewer(shown: Shown, pictures: Sequence[str] = (), *, score_threshold: float = 0.3) -> bytes:
    """The HTML of one video.

    Args:
        shown: the video. The page contains RLE masks and decodes those of the displayed frame.
        pictures: a data URI for each frame; without them, masks are drawn on a plain background.
        score_threshold: the initial minimum score.

    Raises:
        InputError: the number of pictures is not the number of frames.
    """
    if len(pictures) not in (0, shown.length):
        raise InputError(f"{len(pictures)} pictures for {shown.length} frames")
    data = {
        "name": shown.name,
        "size": shown.size,
        "length": shown.length,
        "firstFrame": shown.first_frame,
        "rate": shown.fps or FRAMES_PER_SECOND,
        "timed": shown.fps is not None,
        "threshold": score_threshold,
        "fill": FILL,
        "pictures": len(pictures),
        "sides": [_side(side) for side in shown.sides],
    }
    body, style, script = asset("viewer.html"), asset("viewer.css"), asset("masks.js") + asset("viewer.js")
    return document(f"{shown.name} · mdqe", body, style=style, script=script, data=data, attached=pictures)


def _side(side: Side) -> dict[str, Any]:
    """A side for the script: results in descending order of scores, annotations in ascending order of ids."""
    scored = side.name == PREDICTION
    tracks = sorted(side.tracks, key=lambda one: (-one.score, one.id) if scored else (one.id, 0))
    return {
        "name": side.name,
        "truth": side.name == TRUTH,
        "tracks": [_track(one, side.category(one), scored) for one in tracks],
    }


def _track(track: Track, category: str, scored: bool) -> dict[str, Any]:
    color = track_color(track.id)
    return {
        "id": track.id,
        "category": category + (" (crowd)" if track.is_crowd else ""),
        "score": track.score if scored else None,
        "color": color,
        "ink": text_color(color),
        "masks": track.masks,
    }
