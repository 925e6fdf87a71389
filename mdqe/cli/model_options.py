"""The options that name a model, shared by the commands that run one."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from mdqe.errors import InputError

if TYPE_CHECKING:
    from mdqe.config import MDQEConfig
    from mdqe.model import MDQE

DTYPES = ("float32", "bfloat16", "float16")


def add_model_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """--model, which with `several` may be given more than once, and the options of how it runs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="ID|FOLDER",
        action="append" if several else "store",
        help="a folder, a Hub id (user/model) or a bundled model (mdqe:NAME)"
        + ("; several may be given to choose from, the first one is chosen at the start" if several else ""),
    )
    group.add_argument(
        "--size",
        metavar="PIXELS",
        type=_size,
        help='shorter edge of the frames that the model sees; "native": as the video is (default: the model\'s own)',
    )
    group.add_argument("--device", help='such as "cpu" or "cuda:0" (default: cuda where there is one)')
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="precision (default: %(default)s)")


def default_model() -> str | None:
    """The bundled model that is used when none is named; None where this installation has none."""
    from mdqe.weights.source import bundled_models

    return next(iter(bundled_models()), None)


def model_name(args: argparse.Namespace) -> str:
    """What --model says, or the bundled model.

    Raises:
        ValueError: neither is there.
    """
    name = args.model or default_model()
    if name is None:
        raise InputError("this installation has no bundled model: name one with --model")
    return str(name)


def load_model(args: argparse.Namespace, index: int = 0, number: int = 1) -> "MDQE":
    """The model that the arguments name.

    Args:
        args: with the options of `add_model_arguments`.
        index, number: which of how many processes on this machine this is; they part its threads and its GPUs.

    Raises:
        OSError, ValueError: there is no such model, or not for this device; one line says what.
    """
    import torch

    from mdqe.model import MDQE

    name = model_name(args)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if number > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // number))
        if args.device is None and torch.cuda.is_available():
            device = f"cuda:{index % torch.cuda.device_count()}"
    return MDQE.from_pretrained(name, device=device, dtype=getattr(torch, args.dtype), **_overrides(args))


def load_models(args: argparse.Namespace) -> "dict[str, MDQE]":
    """The models that the arguments, with several of --model, name; by their names.

    Raises:
        OSError, ValueError: there is no such model, or not for this device; one line says what.
    """
    named = [argparse.Namespace(**{**vars(args), "model": name}) for name in args.model or [None]]
    return {model_name(one): load_model(one) for one in named}


def load_config(args: argparse.Namespace) -> "MDQEConfig":
    """The configuration of the model that the arguments name, without its weights.

    Raises:
        OSError, ValueError: there is no such model; one line says what.
    """
    from mdqe.weights.folder import CONFIG_FILE, read_config
    from mdqe.weights.source import open_source

    return read_config(open_source(model_name(args))(CONFIG_FILE)).replace(**_overrides(args))


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.size is None else {"test_shorter_edge": None if args.size == "native" else args.size}


def _size(text: str) -> int | str:
    if text == "native":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number of pixels nor "native"')
    return int(text)
