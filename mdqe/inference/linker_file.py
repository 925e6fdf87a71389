"""The file of a saved `Linker`, in the form of saved sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdqe.errors import InputError
from mdqe.inference.frame_points import GRID
from mdqe.inference.linked_tracks import FARTHEST_POINT, SAMPLES, LinkedTracks
from mdqe.inference.saved_state import MOST, SavedTensors, is_whole, whole_number
from mdqe.inference.session_file import SessionState, read_state, write_state

FORMAT, VERSION = "mdqe-linker", 4
OPTIONS = ("max_absence", "start_score", "logits")
COUNTS = ("num_frames", "num_tracks")
ENTRIES = (*OPTIONS, *COUNTS, "size")
_ARRAYS = (
    "ids", "last_seen", "observations", "labels", "votes", "labelled", "embeddings", "areas", "seen", "extents",
    "places",
)  # fmt: skip
_FLOATS = {"extents": 2, "places": 2, "motion.centres": 2, "motion.velocities": 2, "motion.variances": 6}


def write_linker(path: Path, values: dict[str, Any], tracks: LinkedTracks | None) -> None:
    """Write the attributes ENTRIES of a linker, and its tracks; see `Linker.save`."""
    description = {"format": FORMAT, "version": VERSION, **values}
    write_state(path, SessionState({} if tracks is None else track_tensors(tracks), description))


def track_tensors(tracks: LinkedTracks) -> dict[str, torch.Tensor]:
    """The tracks of a linker as tensors by name, for `read_tracks`."""
    arrays = {name: getattr(tracks, name) for name in _ARRAYS}
    arrays |= {f"motion.{name}": getattr(tracks.motion, name) for name in ("centres", "velocities")}
    arrays["motion.variances"] = tracks.motion.variances.reshape(-1, 6)
    arrays["outlines"] = tracks.outlines.reshape(-1, 2 * SAMPLES).astype(np.int64)
    arrays["cut"] = tracks.cut.astype(np.uint8)
    arrays["num_points"] = np.array([len(mask) for mask in tracks.masks], np.int64)
    arrays["points"] = np.concatenate([np.zeros((0, 2), np.int16), *tracks.masks]).astype(np.int64)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def read_linker(path: Path) -> tuple[dict[str, Any], dict[str, int], LinkedTracks | None]:
    """The arguments of a saved linker, its counts, and its tracks; see `Linker.resume`."""
    state = read_state(path, FORMAT, VERSION, "linker")
    try:
        return _read(state)
    except InputError as error:
        raise InputError(f"{path} is not a valid linker: {error}") from error


def _read(state: SessionState) -> tuple[dict[str, Any], dict[str, int], LinkedTracks | None]:
    entries = {"format", "version", *ENTRIES}
    if different := sorted(entries ^ state.description.keys()):
        raise InputError(f"the entry {different[0][:40]!r} is {'missing' if different[0] in entries else 'unknown'}")
    counts = {name: whole_number(state.description, name) for name in COUNTS}
    options = {name: state.description[name] for name in (*OPTIONS, "size")}
    size = options["size"]
    if size is not None:
        if not isinstance(size, list) or len(size) != 2 or not all(is_whole(edge, 1, 2**31 - 1) for edge in size):
            raise InputError(f"'size' is {str(size)[:40]}, expected [height, width] or null")
        options["size"] = (size[0], size[1])
    if not state.tensors:
        return options, counts, None
    if size is None:
        raise InputError("'size' is null, expected that of the masks of the tracks")
    return options, counts, read_tracks(SavedTensors(state.tensors), **counts)


def read_tracks(saved: SavedTensors, num_frames: int, num_tracks: int) -> LinkedTracks:
    """The tracks of a linker after so many frames and ids, from all tensors that `track_tensors` returned.

    Raises:
        InputError: a tensor is missing, unknown or does not fit the others; names it.
    """
    ids = saved.ids("ids", num_tracks).numpy()
    number = len(ids)
    tracks = LinkedTracks()
    tracks.ids = ids.copy()
    tracks.last_seen = saved.integers("last_seen", 0, num_frames - 1, number).numpy().copy()
    tracks.observations = saved.integers("observations", 1, MOST, number).numpy().copy()
    tracks.labels, tracks.votes = (saved.integers(x, -1, MOST, number).numpy().copy() for x in ("labels", "votes"))
    tracks.labelled = saved.integers("labelled", 0, MOST, number).numpy().copy()
    tracks.embeddings = saved.floats("embeddings", number, None).double().numpy().copy()
    tracks.areas, tracks.seen = (saved.floats(x, number).double().numpy().copy() for x in ("areas", "seen"))
    if (least := tracks.areas.min(initial=1)) <= 0:
        raise InputError(f"the tensor {saved.prefix + 'areas'!r} has the value {least:g}, expected above 0")
    for name, columns in _FLOATS.items():
        home = tracks.motion if name.startswith("motion.") else tracks
        setattr(home, name.removeprefix("motion."), saved.floats(name, number, columns).double().numpy().copy())
    tracks.motion.variances = tracks.motion.variances.reshape(-1, 2, 3)
    outlines = saved.integers("outlines", -2 * GRID, 2 * GRID, number, 2 * SAMPLES).numpy()
    tracks.outlines = outlines.astype(np.int16).reshape(-1, SAMPLES, 2)
    cut = saved.take("cut", (torch.uint8,), number, 4).numpy()
    if len(cut) and cut.max() > 1:
        raise InputError(f"the tensor {saved.prefix + 'cut'!r} has the value {cut.max()}, expected 0 and 1")
    tracks.cut = cut.astype(bool)
    lengths = saved.integers("num_points", 1, MOST, number).numpy()
    points = saved.integers("points", -FARTHEST_POINT, FARTHEST_POINT, None, 2).numpy()
    saved.finish()
    if (total := sum(lengths.tolist())) != len(points):
        raise InputError(f"the tensor {saved.prefix + 'num_points'!r} has the sum {total}, expected {len(points)}")
    tracks.masks = np.split(points.astype(np.int16), np.cumsum(lengths)[:-1]) if number else []
    return tracks
