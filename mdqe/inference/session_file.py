"""The file of a session that was saved: safetensors, with a JSON description in its metadata.

The last frames are kept as they came and encoded again when the session resumes, group by group as before: that gives
the same bits, in a hundredth of the space of their features, whatever later versions make of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mdqe.errors import InputError
from mdqe.inference.frame_buffer import encode_frames
from mdqe.inference.session import VideoSession
from mdqe.inference.views import FrameView
from mdqe.inference.windows import ScoreSums
from mdqe.modeling.network import Network, evaluation_mode
from mdqe.weights.folder import write_tensors

FORMAT, VERSION = "mdqe-session", 1
_OPTIONS = ("score_threshold", "multi_label", "output_size", "by_window", "frames_at_once", "keep_all")
_COUNTS = ("num_frames", "_num_encoded", "_next_clip", "_viewed")


def save_session(session: VideoSession, path: str | Path) -> None:
    """Write the state of a session that has not ended; see `VideoSession.save`."""
    session._forget_frames()
    tensors = {f"tracker.{name}": tensor for name, tensor in session.tracker.state_dict().items()}
    if session._frames:
        tensors["frames"] = torch.stack(list(session._frames))  # (n, 3, H, W) uint8
    if session._sums is not None:
        tensors |= {"scores.total": session._sums.total, "scores.peak": session._sums.peak}
    # Each with memory of its own, as the format asks.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    description = {
        "format": FORMAT,
        "version": VERSION,
        "config": session.config.to_dict(),
        "dtype": _name(session.model.dtype),
        "weights": _digest(session.model.state_dict()),
        "options": {name: getattr(session, name) for name in _OPTIONS},
        "counts": {name.lstrip("_"): getattr(session, name) for name in _COUNTS},
        "frame_size": session.frame_size,
        "windows": 0 if session._sums is None else session._sums.windows,
        "buffer_start": session._encoded.first if session._encoded else 0,
    }
    description["content"] = _content(description, tensors)
    write_tensors(tensors, Path(path), {FORMAT: json.dumps(description)})


def load_session(model: Network, path: str | Path, on_frame: Callable[[FrameView], None] | None = None) -> VideoSession:
    """Go on with a session that was saved; see `MDQE.resume`."""
    description, tensors = _read(Path(path))
    _check_model(model, description, path)
    floating = {name: x.to(model.device) if x.is_floating_point() else x for name, x in tensors.items()}
    session = VideoSession(model, **description["options"], on_frame=on_frame)
    if session.output_size is not None:
        height, width = session.output_size  # a list, from JSON
        session.output_size = (height, width)
    if description["frame_size"] is None:
        return session
    session._begin(tuple(description["frame_size"]))
    for name in _COUNTS:
        setattr(session, name, description["counts"][name.lstrip("_")])
    session._frames.extend(tensors.get("frames", ()))
    tracker = {name.removeprefix("tracker."): x for name, x in floating.items() if name.startswith("tracker.")}
    session.tracker.load_state_dict(tracker)
    if description["windows"]:
        session._sums = ScoreSums(floating["scores.total"], floating["scores.peak"], description["windows"])
    if session._frames:
        _encode_again(session, torch.stack(list(session._frames)), description["buffer_start"])
    return session


@torch.inference_mode()
def _encode_again(session: VideoSession, frames: Tensor, buffer_start: int) -> None:
    """Fill the buffer with the features of those of the last frames (n, 3, H, W) that were encoded."""
    first, group = session.num_frames - len(frames), session._group
    with evaluation_mode(session.model):
        for start in range(first, session._num_encoded, group):
            end = min(start + group, session._num_encoded)
            encoded = encode_frames(session.model, frames[start - first : end - first], start)
            if start == first:
                session._buffer.restore(encoded.clip(max(start, buffer_start), end), buffer_start)
            else:
                session._buffer.append(encoded, first)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FORMAT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except SafetensorError as error:
        raise InputError(f"{path} is not a saved session, or is truncated: {error}") from error
    if text is None:
        raise InputError(f"{path} is not a saved session: a safetensors file without the metadata {FORMAT!r}")
    try:
        description = json.loads(text)
        version, content = description["version"], description.pop("content")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a saved session, or is damaged: its description is unreadable") from error
    if version != VERSION:
        raise InputError(f"{path} is a saved session of version {version}; this mdqe reads version {VERSION}")
    if _content(description, tensors) != content:
        raise InputError(f"{path} is damaged: its tensors or their description are not those that were saved")
    return description, tensors


def _check_model(model: Network, description: Mapping[str, Any], path: str | Path) -> None:
    there, here = description["config"], model.config.to_dict()
    different = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if different:
        values = ", ".join(f"{name} {there.get(name)!r} there and {here.get(name)!r} here" for name in different[:3])
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise InputError(f"{path} was saved by a model of another configuration: {values}{more}")
    if description["dtype"] != _name(model.dtype):
        raise InputError(f"{path} was saved by a model in {description['dtype']}, this one is in {_name(model.dtype)}")
    if description["weights"] != _digest(model.state_dict()):
        raise InputError(f"{path} was saved by a model of the same configuration with other weights")


def _content(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A fingerprint of all that a file holds, the description as JSON, whichever types it came from."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.blake2b((text + _digest(tensors)).encode(), digest_size=16).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A fingerprint of names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {_name(tensor.dtype)} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
