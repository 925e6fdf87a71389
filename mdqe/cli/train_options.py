"""The options of `mdqe train`, and what becomes of those that are not given."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from mdqe.atomic import whole_file
from mdqe.errors import InputError

SETTINGS = "run.json"
AMP = ("bf16", "fp16")
PARTS = ("backbone", "encoder", "decoder")
LOSSES = ("class", "box", "giou", "mask", "dice", "init_sem", "init_reid", "init_reid_aux")

DEFAULTS: dict[str, Any] = {
    "set": (), "loss_weight": (), "reset_classes": False, "skip_bad": False, "size": (128, 192), "accumulate": 1,
    "seed": 0, "checkpointing": (), "workers": 0, "log_every": 20, "save_every": 500, "validate_every": 1000,
    "validate_videos": 8,
}  # fmt: skip
"""What does not depend on a recipe. Options themselves have no defaults, so that it is known which were given."""


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """All options."""
    parser.add_argument(
        "-o", "--output", metavar="RUN", type=Path, required=True, help="folder of the run: a new one, or with --resume"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help=f"go on from RUN's last checkpoint, if there is one; options not given are those in RUN/{SETTINGS}",
    )
    _add_model(parser.add_argument_group("model"))
    _add_data(parser.add_argument_group("data"))
    _add_steps(parser.add_argument_group("steps (defaults: the preset's recipe)"))
    _add_machine(parser.add_argument_group("machine"))
    _add_reports(parser.add_argument_group("reports"))


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--preset", metavar="NAME", help="a published configuration and recipe; see mdqe info")
    group.add_argument(
        "--config", metavar="JSON", type=Path, help="a configuration instead, such as a model's config.json"
    )
    group.add_argument(
        "--set", metavar="FIELD=VALUE", action="append", type=_assignment, help="change a field of the configuration"
    )
    group.add_argument(
        "--init",
        metavar="ID|FOLDER|imagenet",
        help="weights to start from: a Hub id, a folder or mdqe:NAME (single-frame weights are repeated for each frame "
        'of a clip), or "imagenet", timm\'s for the backbone (default: random)',
    )
    group.add_argument(
        "--reset-classes", action="store_const", const=True, help="with --init: start what scores the categories anew"
    )


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        metavar="SET[:RATIO]",
        action="append",
        help="synthetic[:easy|:standard|:hard], an annotation file of videos or images FILE[@IMAGES], or a folder with "
        "annotations.json; again for a mixture, drawn by ratio (default: 1)",
    )
    group.add_argument(
        "--edges",
        metavar="PIXELS",
        type=_edges,
        help='shorter edges that frames of files get, one drawn for each clip, such as 320,352; "native": as they are '
        "(default: the recipe's)",
    )
    group.add_argument(
        "--skip-bad", action="store_const", const=True, help="leave out annotations and images that cannot be used"
    )
    group.add_argument("--size", metavar="WxH", type=_size, help="of synthetic frames, in pixels (default: 192x128)")


def _add_steps(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", metavar="N", type=int, help="in all")
    group.add_argument("--batch", metavar="N", type=int, help="clips a step, of all processes together")
    group.add_argument("--lr", metavar="RATE", type=float, help="learning rate of AdamW")
    group.add_argument("--backbone-multiplier", metavar="X", type=float, help="the backbone's rate is X times that")
    group.add_argument("--weight-decay", metavar="X", type=float, help="of AdamW")
    group.add_argument(
        "--loss-weight",
        metavar="LOSS=X",
        action="append",
        type=_loss_weight,
        help=f"weight of a loss, one of {', '.join(LOSSES)}; again for others (default: the published ones)",
    )
    group.add_argument(
        "--decay",
        metavar="SHARES",
        type=_shares,
        help="shares of the steps after which the rate falls to a tenth: 0.6,0.8",
    )
    group.add_argument("--warmup", metavar="N", type=int, help="steps over which the rate rises to its value")
    group.add_argument("--clip-norm", metavar="X", type=float, help="largest norm of all gradients; 0: any")
    group.add_argument(
        "--ema", metavar="DECAY", type=float, help="average the weights over steps, such as 0.999 (default: not)"
    )
    group.add_argument("--seed", metavar="S", type=int, help="the same gives the same run (default: 0)")


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", help='such as "cpu" or "cuda:0" (default: cuda where there is one)')
    group.add_argument("--amp", choices=AMP, help="mixed precision (default: none)")
    group.add_argument(
        "--accumulate", metavar="N", type=int, help="compute a step in N parts, one after the other (default: 1)"
    )
    group.add_argument(
        "--checkpointing",
        metavar="PARTS",
        type=_parts,
        help=f'compute activations twice to save memory: "all" or some of {",".join(PARTS)}',
    )
    group.add_argument(
        "--workers", metavar="N", type=int, help="processes that draw clips (default: 0, the training one)"
    )


def _add_reports(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--log-every", metavar="N", type=int, help="steps between rows of metrics (default: 20)")
    group.add_argument("--save-every", metavar="N", type=int, help="steps between checkpoints (default: 500)")
    group.add_argument("--validate", metavar="SET", help="segment and score videos of it; named as in --data")
    group.add_argument("--validate-every", metavar="N", type=int, help="steps between validations (default: 1000)")
    group.add_argument("--validate-videos", metavar="N", type=int, help="how many of the set's (default: 8)")


def settle(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in options that were not given: those of the run that is resumed, then the defaults.

    Raises:
        OSError, ValueError: the folder is in use, or its settings cannot be read.
    """
    path = args.output / SETTINGS
    stored: dict[str, Any] = {}
    if args.resume and path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from error
    elif not args.resume and args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise FileExistsError(f"{args.output} is in use; choose a new folder, or go on with --resume")
    if args.preset or args.config:  # another model: what was known of the old one does not count
        stored = {name: value for name, value in stored.items() if name not in ("preset", "config", "fields")}
    settled = argparse.Namespace(**vars(args), fields=stored.get("fields"))
    for name, value in vars(args).items():
        if value is None:
            known = stored.get(name, DEFAULTS.get(name))
            setattr(settled, name, tuple(known) if isinstance(known, list) else known)
    if settled.preset and settled.config:
        raise InputError("--preset and --config exclude each other")
    if not settled.data:
        raise InputError("no --data to train on")
    return settled


def keep(args: argparse.Namespace, fields: dict[str, Any]) -> None:
    """Write the settings of a run into its folder, with the fields of its model's configuration."""
    args.output.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in vars(args).items() if name not in ("output", "resume", "run", "command")}
    values["fields"] = fields
    with whole_file(args.output / SETTINGS) as partial:
        partial.write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"None": None, "True": True, "False": False}.get(value, value)


def _loss_weight(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        weight = float(value)
    except ValueError:
        weight = -1.0
    if name not in LOSSES or not 0 <= weight < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not LOSS=X with a loss of {', '.join(LOSSES)} and X of at least 0"
        )
    return name, weight


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, such as 192x128")
    return int(found[2]), int(found[1])


def _edges(text: str) -> tuple[int, ...] | str:
    if text == "native":
        return text
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f'{text!r} is neither a list of edges, such as 320,352, nor "native"')
    return tuple(int(part) for part in text.split(","))


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = (-1.0,)
    if not all(0 < share <= 1 for share in shares) or list(shares) != sorted(shares):
        raise argparse.ArgumentTypeError(f"{text!r} is not a rising list of shares, such as 0.6,0.8")
    return shares


def _parts(text: str) -> tuple[str, ...]:
    parts = PARTS if text == "all" else tuple(text.split(","))
    if set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f'{text!r} is neither "all" nor some of {",".join(PARTS)}')
    return parts
