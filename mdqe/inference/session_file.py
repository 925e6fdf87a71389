"""The file of a saved session: safetensors, with a JSON description in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mdqe.errors import InputError
from mdqe.files import parse_json
from mdqe.inference.saved_state import is_whole
from mdqe.modeling.network import Network
from mdqe.weights.folder import write_tensors

FORMAT, VERSION = "mdqe-session", 1
OPTIONS = ("score_threshold", "multi_label", "output_size", "by_window", "encoder_batch_size", "keep_all")
_ENTRIES = {
    "format", "version", "config", "dtype", "weights", "options", "counts", "frame_size", "windows", "buffer_start",
}  # fmt: skip
_OPTION_NAMES = {"encoder_batch_size": "frames_at_once"}  # options that have another name in the file


class SessionState(NamedTuple):
    """The state of a `VideoSession`."""

    tensors: dict[str, Tensor]
    description: dict[str, Any]
    """Values that JSON can hold. The entry "options" has the keyword arguments of the session."""


def write_session(path: Path, state: SessionState, model: Network) -> None:
    """Write a session of the model; see `VideoSession.save`."""
    # The format requires that each tensor has its own memory.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in state.tensors.items()}
    options = {_OPTION_NAMES.get(name, name): value for name, value in state.description["options"].items()}
    description = {
        "format": FORMAT,
        "version": VERSION,
        "config": model.config.to_dict(),
        "dtype": _name(model.dtype),
        "weights": _digest(model.state_dict()),
        **state.description,
        "options": options,
    }
    description["content"] = _content(description, tensors)
    write_tensors(tensors, path, {FORMAT: json.dumps(description)})


def read_session(path: Path, model: Network) -> SessionState:
    """Read a session of the model; see `MDQE.resume`."""
    description, tensors = _read(path)
    _check_model(model, description, path)
    names = {in_file: name for name, in_file in _OPTION_NAMES.items()}
    description["options"] = {names.get(name, name): value for name, value in description["options"].items()}
    return SessionState(tensors, description)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.exists() and not path.is_file():  # reading a pipe could wait for ever
        raise InputError(f"{path} is not a saved session: it is not a regular file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FORMAT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise InputError(f"{path} is not a saved session, or is truncated: {error}") from error
    if text is None:
        raise InputError(f"{path} is not a saved session: a safetensors file without the metadata {FORMAT!r}")
    description = parse_json(text, f"the description of {path}")
    if not isinstance(description, dict):
        raise InputError(f"{path} is not a saved session: its description is {_short(description)}")
    version = description.get("version")
    if description.get("format") != FORMAT or not is_whole(version, 1):
        raise InputError(f"{path} is not a saved session: its description has no format or no version")
    if version != VERSION:
        raise InputError(f"{path} is a saved session of version {version}; this mdqe reads version {VERSION}")
    content = description.pop("content", None)
    if _content(description, tensors) != content:
        raise InputError(f"{path} is damaged: its tensors or its description have changed since it was saved")
    _check_entries(description, _ENTRIES, path, "the description")
    options = {_OPTION_NAMES.get(name, name) for name in OPTIONS}
    _check_entries(description["options"], options, path, "'options'")
    return description, tensors


def _check_entries(found: Any, names: set[str], path: Path, place: str) -> None:
    """Check that an object has these entries and no others."""
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a valid session: {place} is {_short(found)}, expected an object")
    if different := sorted(names ^ found.keys()):
        problem = "has no" if different[0] in names else "has the unknown entry"
        raise InputError(f"{path} is not a valid session: {place} {problem} {_short(different[0])}")


def _check_model(model: Network, description: Mapping[str, Any], path: Path) -> None:
    saved, given = description["config"], model.config.to_dict()
    if not isinstance(saved, dict):
        raise InputError(f"{path} is not a valid session: 'config' is {_short(saved)}, expected an object")
    different = [name for name in {**given, **saved} if saved.get(name) != given.get(name)]
    if different:
        names = {name: name if name in given else _short(name) for name in different[:3]}
        values = ", ".join(
            f"{shown} was {_short(saved.get(name))} and is {_short(given.get(name))}" for name, shown in names.items()
        )
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise InputError(f"{path} was saved by a model of another configuration: {values}{more}")
    if description["dtype"] != _name(model.dtype):
        raise InputError(
            f"{path} was saved by a model in {_short(description['dtype'])}, this one is in {_name(model.dtype)!r}"
        )
    if description["weights"] != _digest(model.state_dict()):
        raise InputError(f"{path} was saved by a model of the same configuration with other weights")


def _content(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Fingerprint of the description, as JSON, and the tensors."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.blake2b((text + _digest(tensors)).encode(), digest_size=16).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Fingerprint of the names, types, shapes and values of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {_name(tensor.dtype)} {tuple(tensor.shape)}\n".encode())
        flat = tensor.as_strided(
            (tensor.numel(),), (1,)
        )  # one entry may have a stride of 0, which has no view as bytes
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _short(value: Any) -> str:
    return repr(value)[:60]
