"""Files of weights as people have them: which of their entries are the weights, and how their names begin."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdqe.checkpoint.pickles import ARRAY_NAMES, Array, Unknown, is_legacy, outline, read_arrays
from mdqe.errors import InputError, is_out_of_memory, printable

CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "net", "network")
"""Entries that hold the weights, in the order in which they are looked for."""
AVERAGES = ("model_ema", "ema", "state_dict_ema", "ema_state_dict", "ema_model", "shadow")
"""Entries that hold a moving average of the weights."""
PREFIXES = ("module.", "model.")
COMPILED = "_orig_mod."
MAX_DEPTH = 8  # of containers in containers; one may contain itself
RUN_ENTRIES = {"step", "config", "model", "optimizer", "average"}
"""Entries of the checkpoint.pt of a training run of this library."""


class Checkpoint(NamedTuple):
    """The weights of a file."""

    state: dict[str, Tensor]
    """Tensors by name."""
    fields: dict[str, Any] | None
    """The fields of the configuration, in a checkpoint of `mdqe train`; its names are those of this library."""


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth or .pkl file by name; see `read_checkpoint`."""
    return read_checkpoint(path).state


def read_checkpoint(
    path: str | Path, *, ema: bool = False, say: Callable[[str], None] = lambda text: None
) -> Checkpoint:
    """Read a file of weights. No code in the file is executed.

    The file may be one of `torch.save`, with tensors or NumPy arrays, or a pickle of NumPy arrays (detectron2). The
    weights may be inside entries such as {"model": …} or {"state_dict": …}. The prefixes of DistributedDataParallel,
    `torch.compile` and Lightning are removed.

    Args:
        path: the file.
        ema: take the moving average of the weights.
        say: prints one line about each choice: the entry that is read, what is ignored, prefixes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: another kind of file, a damaged one, one with other Python objects, or one without tensors by name;
            with `ema`, one without a moving average.
    """
    path = Path(path)
    document = _plain(_load(path))
    if isinstance(document, dict) and document.keys() >= RUN_ENTRIES and isinstance(document["config"], dict):
        return _of_run(document, path, ema, say)
    state = _tensors(_weights(document, path, ema, say), path, say)
    return Checkpoint(without_prefixes(state, say), None)


def _load(path: Path) -> Any:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file such as {path / 'checkpoint.pt'}")
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        raise InputError(f"{path} needs no conversion: name the folder of a model in {path.suffix} with --model")
    with path.open("rb") as file:
        head = file.read(20)
    if not head.startswith((b"PK", b"\x80")):
        raise InputError(f"{path} was not written by torch.save: it begins with {head!r}")
    try:
        if not head.startswith(b"PK") and not is_legacy(head):
            return read_arrays(path.read_bytes())
        if head.startswith(b"PK") and _is_compressed(path):
            raise InputError(f"{path} is a compressed zip file, which torch.save does not write")
        with torch.serialization.safe_globals([(own, name) for name, own in ARRAY_NAMES.items()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_objects(path)) from error
    except InputError:
        raise
    except Exception as error:  # the type depends on where the damage is
        size = path.stat().st_size
        stated = re.search(r"allocate (\d+) bytes", str(error))
        if is_out_of_memory(error) and not (stated and int(stated[1]) > size):  # no tensor is larger than its file
            raise
        raise InputError(f"{path} is a truncated or damaged file ({size:,} bytes)") from error


def _plain(document: Any) -> Any:
    """The document with plain dictionaries. In a file, attributes of an OrderedDict may hide its methods."""
    if not isinstance(document, dict):
        return document
    copies: dict[int, dict[Any, Any]] = {id(document): {}}
    waiting = [document]
    while waiting:
        entries = waiting.pop()
        for key, value in dict.items(entries):
            if isinstance(value, dict):
                if id(value) not in copies:
                    copies[id(value)] = {}
                    waiting.append(value)
                value = copies[id(value)]
            copies[id(entries)][key] = value
    return copies[id(document)]


def _is_compressed(path: Path) -> bool:
    """Whether a zip file would be larger in memory than on the disk."""
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())


def _objects(path: Path) -> str:
    """The message for a file with other objects, which ends with a statement that saves its tensors."""
    content = _plain(outline(path))
    with path.open("rb") as file:
        head = file.read(20)
    arrays = not head.startswith(b"PK") and not is_legacy(head)
    load = f"torch.load({str(path)!r}, weights_only=False)"
    if arrays:
        load = f"pickle.load(open({str(path)!r}, 'rb'), encoding='latin1')"
    for _ in range(MAX_DEPTH):
        if not isinstance(content, dict):
            break
        key = next((key for key in (*CONTAINERS, *AVERAGES) if isinstance(content.get(key), dict | Unknown)), None)
        if key is None or (isinstance(content[key], Unknown) and content[key].is_tensor):
            break
        content, load = content[key], f"{load}[{key!r}]"
    if isinstance(content, Unknown):
        what, tensors = f"a whole {printable(content.path or 'object')} object", f"{load}.state_dict()"
    else:
        what, test = "Python objects other than tensors", "hasattr(v, 'shape')" if arrays else "torch.is_tensor(v)"
        value = "torch.as_tensor(v)" if arrays else "v"
        tensors = f"{{k: {value} for k, v in {load}.items() if {test}}}"
    new = str(path.with_name(f"{path.stem}.tensors.pth"))
    return (
        f"{path} contains {what}, and unpickling them can run arbitrary code. If you trust the file, save only its "
        f"tensors, where it was made: import {'pickle, ' * arrays}torch; torch.save({tensors}, {new!r})"
    )


def _weights(document: Any, path: Path, ema: bool, say: Callable[[str], None]) -> Any:
    """The entry of the document with the weights."""
    for _ in range(MAX_DEPTH):
        if not isinstance(document, dict):
            break
        averages = [key for key in AVERAGES if isinstance(document.get(key), dict) and document[key]]
        plain = [key for key in CONTAINERS if isinstance(document.get(key), dict)]
        if not averages and not plain:
            break
        key = averages[0] if averages and (ema or not plain) else plain[0]
        others = [printable(other, 40) for other in document if other != key]
        hint = f"; --ema takes the moving average {averages[0]!r}" if averages and key not in averages else ""
        if others:
            more = f" and {len(others) - 8} more" if len(others) > 8 else ""
            say(f"weights from the entry {key!r}; ignored: {', '.join(others[:8])}{more}{hint}")
        inner = document[key]
        if key in averages:
            ema = False
            if (
                plain
                and (missing := document[plain[0]].keys() - inner.keys())
                and inner.keys() <= document[plain[0]].keys()
            ):
                inner = {**{name: document[plain[0]][name] for name in sorted(missing)}, **inner}
                say(f"{len(missing)} tensors that the moving average lacks come from {plain[0]!r}")
        document = inner
    if ema:
        raise InputError(f"{path} has no moving average of the weights ({', '.join(AVERAGES)})")
    return document


def _tensors(entries: Any, path: Path, say: Callable[[str], None]) -> dict[str, Tensor]:
    """The tensors among the entries. Plain values beside them are ignored."""
    if not isinstance(entries, dict) or not entries:
        kind = "no entries" if entries == {} else f"a {type(entries).__name__}"
        raise InputError(f"{path} contains {kind}, expected tensors by name")
    state: dict[str, Tensor] = {}
    plain, others = [], []
    for name, value in entries.items():
        try:
            value = value.tensor() if isinstance(value, Array) else value
        except pickle.UnpicklingError as error:
            raise InputError(f"{path} has {error} as {printable(name)}, expected numbers") from error
        if isinstance(value, Tensor) and not is_plain(value):
            kind = "a sparse, quantized or nested tensor, or one without values,"
            raise InputError(f"{path} has {kind} as {printable(name)}, expected numbers")
        if isinstance(name, str) and isinstance(value, Tensor):
            state[name] = value
        elif isinstance(name, str) and (value is None or isinstance(value, str | int | float)):
            plain.append(printable(name))
        else:
            others.append(printable(name))
    if others or not state:
        names = ", ".join((others or plain)[:10])
        raise InputError(f"{path} contains entries that are not tensors by name: {names}")
    if plain:
        say(f"ignored, because they are not tensors: {', '.join(plain[:10])}")
    return state


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has one number in memory for each element, unlike sparse, quantized and nested ones."""
    has_memory = tensor.layout == torch.strided and not tensor.is_meta
    return has_memory and not tensor.is_quantized and not tensor.is_nested


def without_prefixes(state: dict[str, Tensor], say: Callable[[str], None]) -> dict[str, Tensor]:
    """The state without prefixes that most names have, and without those of `torch.compile`."""
    removed = []
    if any(COMPILED in name for name in state):
        state, before = {name.replace(COMPILED, ""): value for name, value in state.items()}, state
        state = state if len(state) == len(before) else before
        removed += [COMPILED] * (state is not before)
    while prefix := next((p for p in PREFIXES if 2 * sum(name.startswith(p) for name in state) > len(state)), None):
        shorter = {name.removeprefix(prefix): value for name, value in state.items()}
        if len(shorter) < len(state):  # two tensors would have one name
            break
        state, removed = shorter, [*removed, prefix]
    if removed:
        say(f"prefixes removed from the names: {', '.join(removed)}")
    return state


def _of_run(document: dict[str, Any], path: Path, ema: bool, say: Callable[[str], None]) -> Checkpoint:
    """The weights that a training run would save: its moving average, if it has one."""
    if ema and not document["average"]:
        raise InputError(f"{path} has no moving average of the weights: the run was started without --ema")
    state = document["model"]
    if not isinstance(state, dict) or not isinstance(document["average"], dict | None):
        raise InputError(f"{path} is damaged, or not a checkpoint of a training run")
    average = document["average"] or {}
    step = printable(document["step"], 20)
    say(f"checkpoint of mdqe train after step {step}" + (": the moving average of the weights" if average else ""))
    return Checkpoint(_tensors({**state, **average}, path, say), document["config"])
