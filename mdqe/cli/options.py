"""Options that several commands share: types, the output, the score threshold, and the model with its settings."""

import argparse
import hashlib
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mdqe.errors import InputError
from mdqe.files import expanded

if TYPE_CHECKING:
    from mdqe.config import MDQEConfig
    from mdqe.model import MDQE

T = TypeVar("T")
Options = argparse.ArgumentParser | argparse._ArgumentGroup
DTYPES = ("float32", "bfloat16", "float16")
NATIVE = "native"
BUNDLED = "mdqe:tiny"
"""The bundled model, which commands use if none is named."""


def option(parser: Options, flags: str, metavar: str, kind: Callable[[str], Any], help: str, **more: Any) -> None:
    """Add an option with a value. The help ends with the default, if there is one.

    Args:
        parser: the parser or a group of it.
        flags: the names of the option, separated by spaces.
        metavar: the name of the value.
        kind: converts the text of the value.
        help: the help text.
        more: further arguments of `add_argument`.
    """
    help += " (default: %(default)s)" if more.get("default") not in (None, ()) else ""
    parser.add_argument(*flags.split(), metavar=metavar, type=kind, help=help, **more)


def flag(parser: Options, name: str, help: str) -> None:
    """Add an option without a value, which is False by default."""
    parser.add_argument(name, action="store_true", help=help)


# Argument types: functions from the text of an argument to its value.


def whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"\d{1,20}", text, re.ASCII) or not least <= int(text) <= most:
            limits = f"of at least {least}" if most == 10**9 else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return int(text)

    return convert


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A finite number from `least` to `most`."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            limits = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {limits}")
        return value

    return convert


def choice(*names: str) -> Callable[[str], str]:
    """One of these names."""

    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return convert


def several(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Values of one type, separated by commas."""
    return lambda text: tuple(kind(part) for part in text.split(","))


def or_native(kind: Callable[[str], T]) -> Callable[[str], T | str]:
    """A value of a type, or the word "native"."""

    def convert(text: str) -> T | str:
        try:
            return text if text == NATIVE else kind(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f'{error} or "{NATIVE}"') from None

    return convert


def frame_size(text: str) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT"."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, such as 192x128")
    return int(found[2]), int(found[1])


def given_path(text: str) -> Path:
    """A path; an empty text, as of an empty shell variable, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("'' is not a path")
    return Path(text)


def model_text(text: str) -> str:
    """The name of a model; an empty text, as of an empty shell variable, does not mean the bundled one."""
    if not text:
        raise argparse.ArgumentTypeError("'' is not a model")
    return text


def seed(text: str) -> int:
    """A seed of random numbers."""
    return whole(0, 2**63 - 1)(text)


# Options.


def add_output(parser: Options, metavar: str, help: str, default: Path | None = None) -> None:
    """Add `-o`, which is required unless it has a default."""
    option(parser, "-o --output", metavar, given_path, help, default=default, required=default is None)


def add_score_threshold(parser: Options, help: str) -> None:
    """Add `--score-threshold`, from 0 to 1."""
    option(parser, "--score-threshold", "SCORE", number(0, 1), help, default=0.3)


def add_device(parser: Options) -> None:
    """Add `--device`."""
    parser.add_argument("--device", help='device, such as "cpu" or "cuda:0" (default: cuda if available)')


def add_model(parser: Options, *, several: bool = False, default: bool = False) -> None:
    """Add `--model`, which can be repeated if `several` is true, and `--force-download`.

    `default` states that the command uses the bundled model if none is named.
    """
    more = "; repeat the option to offer several models, the first of which is selected at the start" * several
    more += f" (default: {BUNDLED}, which knows synthetic shapes only)" * default
    help = f"a name from mdqe info --models, a folder or a Hub id (user/model){more}"
    option(parser, "--model", "ID|FOLDER", model_text, help, action="append" if several else "store")
    flag(parser, "--force-download", "download the files of a model even if they are in the cache")


def add_model_arguments(parser: argparse.ArgumentParser, *, several: bool = False, default: bool = False) -> None:
    """Add `--model` and the options that control how the model runs."""
    parser.set_defaults(memory_hint="; a smaller --size needs less")
    group = parser.add_argument_group("model")
    add_model(group, several=several, default=default)
    size = f'scale frames to this shorter edge; "{NATIVE}" keeps their size (default: the model\'s test size)'
    option(group, "--size", "PIXELS", or_native(whole(1, 10**5)), size)
    relink = "give the masks of the tracker new ids by how objects move (default: as the model's configuration says)"
    group.add_argument("--relink", action=argparse.BooleanOptionalAction, help=relink)
    add_device(group)
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="number format (default: %(default)s)")


# The model that the options name.


def model_name(args: argparse.Namespace) -> str:
    """The value of --model, or the name of the bundled model.

    Raises:
        InputError: there is neither.
    """
    from mdqe.weights.source import bundled_models

    name = next(iter(bundled_models()), None) if args.model is None else args.model
    if name is None:
        raise InputError("this installation has no bundled model: name a model with --model")
    return str(name)


def bundled_note(name: str, config: "MDQEConfig") -> str | None:
    """What the bundled model finds, and a model for real videos; None for another model."""
    if name != BUNDLED:
        return None
    shapes = f"{len(config.categories)} synthetic shapes ({', '.join(config.categories)})"
    return f"{name} finds only {shapes}; for people, animals and vehicles: --model mdqe:r50_ovis_360"


def load_model(args: argparse.Namespace, index: int = 0, number: int = 1) -> "MDQE":
    """Load the model that the options of `add_model_arguments` name.

    Args:
        args: the arguments.
        index, number: the index of this process among `number` processes on this machine, which divide the CPU threads
            and the GPUs among themselves.

    Raises:
        OSError, MDQEError: there is no such model or device.
    """
    import torch

    from mdqe.model import MDQE

    name = model_name(args)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if number > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // number))
        if args.device is None and torch.cuda.is_available():
            device = f"cuda:{index % torch.cuda.device_count()}"
    if index > 0:
        warnings.filterwarnings("ignore", "bfloat16 is several times slower")  # the first process warns
    settings = {"device": device, "dtype": getattr(torch, args.dtype), "force_download": args.force_download}
    return MDQE.from_pretrained(name, **settings, **_overrides(args))


def load_models(args: argparse.Namespace) -> "dict[str, MDQE]":
    """Load all models of a repeated --model, by their names.

    Raises:
        OSError, MDQEError: there is no such model or device.
    """
    every = [argparse.Namespace(**{**vars(args), "model": name}) for name in args.model or [None]]
    return {model_name(one): load_model(one) for one in every}


def load_config(args: argparse.Namespace) -> "MDQEConfig":
    """Load the configuration of the model that the options name, without its weights.

    Raises:
        OSError, MDQEError: there is no such model.
    """
    from mdqe.weights.folder import CONFIG_FILE, read_config
    from mdqe.weights.source import open_source

    fetch = open_source(model_name(args), force_download=args.force_download)
    return read_config(fetch(CONFIG_FILE)).replace(**_overrides(args))


def weights_version(args: argparse.Namespace) -> str:
    """What tells the weights of the model from others under the same name: a hash, or the commit on the Hub.

    Raises:
        OSError, MDQEError: there is no such model.
    """
    from mdqe.weights.folder import CONFIG_FILE, WEIGHTS_FILE
    from mdqe.weights.source import BUNDLED_PREFIX, open_source

    name = model_name(args)
    fetch = open_source(name, force_download=args.force_download)
    if not name.startswith(BUNDLED_PREFIX) and not expanded(name).is_dir():
        return fetch(CONFIG_FILE).parent.name
    digest = hashlib.sha256()
    with fetch(WEIGHTS_FILE).open("rb") as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()[:16]


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    changes = {} if args.size is None else {"test_shorter_edge": None if args.size == NATIVE else args.size}
    return changes if args.relink is None else {**changes, "relink": args.relink}
