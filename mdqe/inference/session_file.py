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

from mdqe.config import MDQEConfig
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
    """The state of a `VideoSession`, or another state in such a file."""

    tensors: dict[str, Tensor]
    description: dict[str, Any]
    """Values that JSON can hold. The entry "options" has the keyword arguments of the session."""


def write_session(path: Path, state: SessionState, model: Network) -> None:
    """Write a session of the model; see `VideoSession.save`."""
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
    write_state(path, SessionState(state.tensors, description))


def read_session(path: Path, model: Network) -> SessionState:
    """Read a session of the model; see `MDQE.resume`."""
    tensors, description = read_state(path, FORMAT, VERSION, "session")
    _check_entries(description, _ENTRIES, path, "the description")
    options = {_OPTION_NAMES.get(name, name) for name in OPTIONS}
    _check_entries(description["options"], options, path, "'options'")
    _check_model(model, description, path)
    names = {in_file: name for name, in_file in _OPTION_NAMES.items()}
    description["options"] = {names.get(name, name): value for name, value in description["options"].items()}
    return SessionState(tensors, description)


def write_state(path: Path, state: SessionState) -> None:
    """Write tensors and a description, whose entries "format" and "version" name the kind of file."""
    # The format requires that each tensor has its own memory.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in state.tensors.items()}
    description = {**state.description, "content": _content(state.description, tensors)}
    write_tensors(tensors, path, {description["format"]: json.dumps(description)})


def read_state(path: Path, format: str, version: int, kind: str) -> SessionState:
    """Read what `write_state` wrote.

    Args:
        path: the file.
        format, version: of the description.
        kind: the word for the file in errors, after "saved".

    Raises:
        FileNotFoundError: there is no such file.
        InputError: another kind of file, damaged, or of another version.
    """
    name = f"a saved {kind}"
    if path.exists() and not path.is_file():  # reading a pipe could wait for ever
        raise InputError(f"{path} is not {name}: it is not a regular file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(format)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise InputError(f"{path} is not {name}, or is truncated: {error}") from error
    if text is None:
        raise InputError(f"{path} is not {name}: a safetensors file without the metadata {format!r}")
    description = parse_json(text, f"the description of {path}")
    if not isinstance(description, dict):
        raise InputError(f"{path} is not {name}: its description is {_short(description)}")
    found = description.get("version")
    if description.get("format") != format or not is_whole(found, 1):
        raise InputError(f"{path} is not {name}: its description has no format or no version")
    if found != version:
        raise InputError(f"{path} is {name} of version {found}; this mdqe reads version {version}")
    content = description.pop("content", None)
    if _content(description, tensors) != content:
        raise InputError(f"{path} is damaged: its tensors or its description have changed since it was saved")
    return SessionState(tensors, description)


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
    saved = {**MDQEConfig().to_dict(), **saved}  # fields that are newer than the file have their defaults
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
