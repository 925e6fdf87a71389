"""The file of a saved `Linker`, in the form of saved sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdqe.errors import InputError
from mdqe.inference.frame_masks import GRID
from mdqe.inference.linked_tracks import LinkedTracks
from mdqe.inference.saved_state import MOST, SavedTensors, is_whole, whole_number
from mdqe.inference.session_file import SessionState, read_state, write_state

FORMAT, VERSION = "mdqe-linker", 1
OPTIONS = ("max_absence", "start_score", "logits")
_COUNTS = ("num_frames", "num_tracks")
ENTRIES = (*OPTIONS, *_COUNTS, "size")
_FLOATS = {"extents": 2, "places": 2, "motion.centres": 2, "motion.velocities": 2, "motion.variances": 3}


def write_linker(path: Path, values: dict[str, Any], tracks: LinkedTracks | None) -> None:
    """Write the attributes ENTRIES of a linker, and its tracks; see `Linker.save`."""
    arrays: dict[str, Any] = {}
    if tracks is not None:
        names = (
            "ids",
            "last_seen",
            "observations",
            "labels",
            "votes",
            "origins",
            "embeddings",
            "areas",
            "extents",
            "places",
        )
        arrays = {name: getattr(tracks, name) for name in names}
        arrays |= {f"motion.{name}": getattr(tracks.motion, name) for name in ("centres", "velocities", "variances")}
        arrays["mask_sizes"] = np.array([mask.shape for mask in tracks.masks], np.int64).reshape(-1, 2)
        arrays["masks"] = np.concatenate([np.zeros(0, np.float32), *map(np.ravel, tracks.masks)]).astype(np.uint8)
    description = {"format": FORMAT, "version": VERSION, **values}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    write_state(path, SessionState(tensors, description))


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
    counts = {name: whole_number(state.description, name) for name in _COUNTS}
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
    saved = SavedTensors(state.tensors)
    ids = saved.ids("ids", counts["num_tracks"]).numpy()
    number = len(ids)
    tracks = LinkedTracks()
    tracks.ids = ids.copy()
    tracks.last_seen = saved.integers("last_seen", 0, counts["num_frames"] - 1, number).numpy().copy()
    tracks.observations = saved.integers("observations", 1, MOST, number).numpy().copy()
    tracks.labels, tracks.votes = (saved.integers(x, -1, MOST, number).numpy().copy() for x in ("labels", "votes"))
    tracks.origins = saved.integers("origins", 0, GRID, number, 2).numpy().copy()
    tracks.embeddings = saved.floats("embeddings", number, None).double().numpy().copy()
    tracks.areas = saved.floats("areas", number).double().numpy().copy()
    for name, columns in _FLOATS.items():
        home = tracks.motion if name.startswith("motion.") else tracks
        setattr(home, name.removeprefix("motion."), saved.floats(name, number, columns).double().numpy().copy())
    sizes = saved.integers("mask_sizes", 0, GRID + 1, number, 2).numpy()
    areas = sizes.prod(axis=1)
    flat = saved.take("masks", (torch.uint8,), int(areas.sum())).numpy()
    if len(flat) and flat.max() > 1:
        raise InputError(f"the tensor 'masks' has the value {flat.max()}, expected 0 and 1")
    saved.finish()
    parts = np.split(flat.astype(np.float32), np.cumsum(areas)[:-1]) if number else []
    tracks.masks = [part.reshape(shape) for part, shape in zip(parts, sizes, strict=True)]
    return options, counts, tracks
