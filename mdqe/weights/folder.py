"""The folder of a model: config.json and model.safetensors, read strictly and written atomically.

config.json        the MDQEConfig, with "model_type": "mdqe" and a format version
model.safetensors  every parameter and persistent buffer, once
"""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mdqe.config import FORMAT_VERSION, MDQEConfig
from mdqe.errors import InputError, printable
from mdqe.files import read_json, whole_file

MODEL_TYPE = "mdqe"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MOST_SOURCE = 2000  # characters


def read_config(path: Path) -> MDQEConfig:
    """Read a model's config.json.

    Raises:
        ValueError: not JSON, the config of another model, a newer format, or an invalid field; names the file.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("model_type") != MODEL_TYPE:
        kind = values.get("model_type") if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{path} is the config of another model: model_type is {kind!r}, expected {MODEL_TYPE!r}")
    version = values.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{path}: format_version is {version!r}, expected a whole number from 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise InputError(f"{path}: format_version is {version}, this mdqe reads up to {FORMAT_VERSION}: update mdqe")
    try:
        return MDQEConfig.from_dict({k: v for k, v in values.items() if k not in ("model_type", "format_version")})
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, by name.

    Raises:
        OSError: the file is truncated or damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        problem = f"{path.stat().st_size:,} bytes; {printable(error, 200)}"
        raise OSError(
            f"{path} is truncated or damaged ({problem}); if it is in the cache of the Hub, download it "
            "again with --force-download, in Python force_download=True"
        ) from error


def fill(model: nn.Module, state: dict[str, Tensor], origin: str | Path) -> None:
    """Copy a state into the parameters and persistent buffers of a model, and cast it to their types.

    Args:
        origin: the name of the state in error messages.

    Raises:
        ValueError: missing or unexpected tensors, different shapes, or values that are complex, NaN or infinite. The
            message lists them; nothing is copied.
    """
    own = _own_tensors(model)
    _check_fit({n: tuple(t.shape) for n, t in state.items()}, {n: tuple(t.shape) for n, t in own.items()}, origin)
    unusable = [name for name in own if not _is_finite(state[name])]
    if unusable:
        problem = "complex, NaN or infinite values"
        raise InputError(f"{origin} has {len(unusable)} tensors with {problem}: {_shortened(unusable)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_complex():
        return False
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.itemsize == 1:  # PyTorch has no minimum of the types of 8 bits
        tensor = tensor.float()
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())  # NaN propagates to both


def write_folder(model: nn.Module, config: MDQEConfig, folder: Path, source: str | None = None) -> None:
    """Write both files atomically.

    Args:
        folder: created if it does not exist.
        source: the origin of the weights, stored in the metadata of the weights file.

    Raises:
        OSError: the folder is a file or not writable, or the disk is full.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for the model")
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model_type": MODEL_TYPE, "format_version": FORMAT_VERSION, **config.to_dict()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in _own_tensors(model).items()}
    metadata = {"format": "pt", **({"source": printable(source, MOST_SOURCE)} if source else {})}
    write_tensors(tensors, folder / WEIGHTS_FILE, metadata)  # first, because a full disk fails here
    with whole_file(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write contiguous tensors atomically as a safetensors file. The same tensors and metadata give the same bytes.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    with whole_file(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        try:
            save_file(tensors, partial, metadata=metadata)
        except SafetensorError as error:
            raise _as_os_error(error) from error
        _sort_metadata(partial)
        partial.chmod(mode)  # safetensors creates a file that other users cannot read


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file. The library writes them in a random order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(text.ljust(size))  # the format pads with spaces


def _check_fit(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], origin: str | Path) -> None:
    shapes = [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "with a different shape": shapes,
    }
    parts = [f"{len(names)} {problem}: {_shortened(names)}" for problem, names in problems.items() if names]
    if parts:
        raise InputError(f"{origin} does not fit the model of its config; {'; '.join(parts)}")


def _shortened(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name, 150) for name in names[:most]) + more


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers by name. A parameter with two names is listed under the first."""
    own: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():  # not copies, so ids identify tensors
        own.setdefault(id(tensor), (name, tensor))
    return dict(own.values())


def _as_os_error(error: SafetensorError) -> OSError:
    """Recover the error number, which safetensors reports only in the text of its error."""
    number = re.search(r"os error (\d+)", str(error))
    code = int(number[1]) if number else errno.EIO
    return OSError(code, os.strerror(code))


class SkipRandomInit(TorchFunctionMode):
    """Create parameters without initial values, for a model whose parameters are all loaded afterwards.

    Buffers are initialized as usual, because those that are not persistent are not loaded.
    """

    # The last three scale and clip the values of truncated normal distributions.
    _SKIPPED = frozenset({
        nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_,
        nn.init.xavier_uniform_, nn.init.xavier_normal_, Tensor.uniform_, Tensor.normal_, Tensor.erfinv_,
        Tensor.mul_, Tensor.add_, Tensor.clamp_,
    })  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self._SKIPPED:
            target = args[0] if args else kwargs["tensor"]
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **kwargs)
