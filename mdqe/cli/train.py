"""`mdqe train`: trains a model."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe.cli import say
from mdqe.cli.options import (
    NATIVE,
    add_device,
    add_output,
    choice,
    flag,
    frame_size,
    number,
    option,
    or_native,
    seed,
    several,
    whole,
)
from mdqe.cli.run_settings import FIELDS, read_settings, write_settings
from mdqe.errors import InputError
from mdqe.files import whole_file

if TYPE_CHECKING:
    import torch

    from mdqe.config import MDQEConfig
    from mdqe.training.recipe import Recipe
    from mdqe.training.sources import DataSet
    from mdqe.training.trainer import Trainer
    from mdqe.training.validation import Validation

HELP = "train a model on videos, images or the synthetic set"
EXAMPLE = (
    "mdqe train --preset r50_ovis_360 --init imagenet --data synthetic -o run --batch 4 --steps 5000\n"
    "  torchrun --nproc-per-node 8 -m mdqe train --preset r50_ovis_360 --init imagenet --data synthetic -o run"
)
SETTINGS = "run.json"
INITIAL = "initial_weights.txt"
UNSAVED = ("output", "resume", "run", "command", "memory_hint", "fields", "initial")
AMP = ("bf16", "fp16")
PARTS = ("backbone", "encoder", "decoder")
FREEZABLE = ("backbone", "encoder")
LOSSES = ("class", "box", "giou", "mask", "dice", "init_sem", "init_reid", "init_reid_aux")

DEFAULTS: dict[str, Any] = {
    "set": (), "loss_weight": (), "reset_classes": False, "skip_bad": False, "size": (128, 192), "accumulate": 1,
    "seed": 0, "freeze": (), "checkpointing": (), "workers": 0, "log_every": 20, "save_every": 500,
    "validate_every": 1000, "validate_videos": 8,
}  # fmt: skip
"""Values that do not depend on a recipe. The parser has no defaults, so that a given option can be recognised."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_output(parser, "RUN", "folder of the run, a new one unless --resume is given")
    resume = f"continue from the last checkpoint in RUN, if any; options that are not given come from RUN/{SETTINGS}"
    flag(parser, "--resume", resume)
    _add_model(parser.add_argument_group("model"))
    _add_data(parser.add_argument_group("data"))
    _add_steps(parser.add_argument_group("optimization (defaults: the recipe of the preset)"))
    _add_machine(parser.add_argument_group("machine"))
    _add_reports(parser.add_argument_group("reports"))
    parser.set_defaults(memory_hint="; --checkpointing all, --accumulate N and --amp need less")


def _add_model(group: argparse._ArgumentGroup) -> None:
    option(group, "--preset", "NAME", str, "published configuration and recipe, such as r50_ovis_360")
    option(group, "--config", "JSON", Path, "file with a configuration instead, such as a model's config.json")
    option(group, "--set", "FIELD=VALUE", _assignment, "change a field of the configuration", action="append")
    init = (
        "initial weights: a Hub id, a folder or mdqe:NAME (single-frame weights are repeated for each frame of a "
        "clip); a file of torchvision, timm, detectron2, SwinV2, Deformable DETR, SeqFormer or IDOL, whose backbone "
        'and encoder are taken; or "imagenet" for a backbone with the weights of timm (default: random)'
    )
    option(group, "--init", "ID|FOLDER|FILE|imagenet", str, init)
    reset = "with --init: initialise the class heads randomly"
    group.add_argument("--reset-classes", action="store_const", const=True, help=reset)


def _add_data(group: argparse._ArgumentGroup) -> None:
    data = (
        "training set: synthetic[:easy|:standard|:hard|:occluded], an annotation file of videos or images "
        "FILE[@IMAGES], or a folder with annotations.json; repeat the option to mix sets in the given ratios (default: "
        "1)"
    )
    option(group, "--data", "SET[:RATIO]", str, data, action="append")
    edges = (
        "shorter edges of the frames, such as 320,352, one of which is drawn for each clip; "
        f'"{NATIVE}" keeps their size (default: the recipe of the preset)'
    )
    option(group, "--edges", "PIXELS", or_native(several(whole(1, 10**5))), edges)
    bad = "skip invalid annotations and damaged images"
    group.add_argument("--skip-bad", action="store_const", const=True, help=bad)
    option(group, "--size", "WxH", frame_size, "size of synthetic frames in pixels (default: 192x128)")


def _add_steps(group: argparse._ArgumentGroup) -> None:
    option(group, "--steps", "N", whole(1), "number of steps")
    option(group, "--batch", "N", whole(1), "clips per step, in all processes together")
    option(group, "--lr", "RATE", number(0), "learning rate of AdamW")
    option(group, "--backbone-multiplier", "X", number(0), "factor on the learning rate of the backbone")
    option(group, "--weight-decay", "X", number(0), "weight decay of AdamW")
    loss = f"weight of a loss ({', '.join(LOSSES)}); repeat the option for other losses (default: as published)"
    option(group, "--loss-weight", "LOSS=X", _loss_weight, loss, action="append")
    freeze = f"keep the weights of parts as they are: some of {','.join(FREEZABLE)}"
    option(group, "--freeze", "PARTS", several(choice(*FREEZABLE)), freeze)
    decay = "fractions of the steps after which the learning rate is divided by 10, such as 0.6,0.8"
    option(group, "--decay", "SHARES", _shares, decay)
    option(group, "--warmup", "N", whole(0), "number of steps in which the learning rate rises linearly")
    option(group, "--clip-norm", "X", number(0), "maximum norm of all gradients; 0 disables clipping")
    ema = "use a moving average of the weights with this decay, such as 0.999 (default: none)"
    option(group, "--ema", "DECAY", number(0, 1), ema)
    option(group, "--seed", "S", seed, "seed of all random numbers (default: 0)")


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add_device(group)
    group.add_argument("--amp", choices=AMP, help="number format of mixed precision (default: none)")
    option(group, "--accumulate", "N", whole(1), "compute each step in N parts to save memory (default: 1)")
    parts = f'recompute activations in the backward pass to save memory: "all" or some of {",".join(PARTS)}'
    option(group, "--checkpointing", "PARTS", several(choice("all", *PARTS)), parts)
    workers = "processes that load clips; 0: the training process loads them (default: 0)"
    option(group, "--workers", "N", whole(0, 1024), workers)


def _add_reports(group: argparse._ArgumentGroup) -> None:
    option(group, "--log-every", "N", whole(1), "steps between rows of metrics (default: 20)")
    option(group, "--save-every", "N", whole(1), "steps between checkpoints (default: 500)")
    option(group, "--validate", "SET", str, "validation set, named as in --data; its videos are segmented and scored")
    option(group, "--validate-every", "N", whole(1), "steps between validations (default: 1000)")
    option(group, "--validate-videos", "N", whole(1), "number of videos of the validation set (default: 8)")


def run(args: argparse.Namespace) -> int:
    """Train, and print the folder of the model. Returns 1 if a loss is not finite."""
    from mdqe.distributed import process_group, rank
    from mdqe.training.step import NonFiniteLossError

    args = resolve_options(args)
    with process_group(args.device) as device:
        first = rank() == 0
        log = say if first else _silent
        trainer = build(args, device, log)
        if args.resume:
            start = f"{args.output} has no checkpoint: starting a new run"
            log(f"resumed after step {trainer.done}" if trainer.resume() else start)
        if first:  # not before the options fit the checkpoint
            args.output.mkdir(parents=True, exist_ok=True)
            options = {name: value for name, value in vars(args).items() if name not in UNSAVED}
            if lines := getattr(args, "initial", None):
                with whole_file(args.output / INITIAL) as path:
                    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
            write_settings(args.output / SETTINGS, options, trainer.model.config.to_dict())
        try:
            trainer.train()
        except NonFiniteLossError as error:
            say(f"mdqe train: error: {error}")
            return 1
        if first:
            print(args.output)
    return 0


def build(args: argparse.Namespace, device: "torch.device", log: Callable[[str], None]) -> "Trainer":
    """Build the trainer that the options describe. Data sets are checked before the model is built."""
    import torch

    from mdqe.data.loader import MixedClips
    from mdqe.losses.criterion import build_criterion
    from mdqe.model import MDQE
    from mdqe.training.initialize import initial_model
    from mdqe.training.optimizer import StepDecay, adamw, freeze
    from mdqe.training.sources import split_ratio
    from mdqe.training.step import recompute_activations
    from mdqe.training.trainer import CHECKPOINT, Trainer

    recipe = read_recipe(args)
    config = read_config(args)
    names, ratios = zip(*(split_ratio(name) for name in args.data), strict=True)
    sets = open_sets(names, config, recipe, args)
    if not {"num_classes", "categories"} & dict(args.set).keys():
        config = sets[0].categories.configure(config)
    validate = validation(args, config, log)
    torch.manual_seed(args.seed)
    if args.resume and (args.output / CHECKPOINT).exists():
        model = MDQE(config).to(device)  # the checkpoint has its weights
    else:
        lines: list[str] = []
        said = partial(_log_and_keep, log, lines)
        model = initial_model(config, args.init, reset_classes=args.reset_classes, say=said).to(device)
        args.initial = lines
    freeze(model, args.freeze)
    recompute_activations(model, PARTS if "all" in args.checkpointing else args.checkpointing)
    passed = ("accumulate", "amp", "seed", "workers", "log_every", "save_every", "validate_every")
    rates = {"backbone_multiplier": recipe.backbone_multiplier, "weight_decay": recipe.weight_decay}
    return Trainer(
        model,
        MixedClips([one.clips for one in sets], ratios, seed=args.seed),
        args.output,
        adamw(model, recipe.learning_rate, **rates),
        StepDecay(recipe.decay_steps, warmup_steps=recipe.warmup_steps),
        steps=recipe.steps,
        batch=recipe.batch,
        clip_norm=recipe.clip_norm or None,
        criterion=build_criterion(config, **{f"{name}_weight": weight for name, weight in args.loss_weight}),
        average_decay=args.ema,
        validate=validate,
        source=f"trained by mdqe train on {', '.join(Path(name.partition('@')[0]).name for name in names)}",
        **{name: getattr(args, name) for name in passed},
    )


def read_config(args: argparse.Namespace) -> "MDQEConfig":
    """The configuration of the resumed run, --preset, --config or the model of --init, with the changes of --set.

    New runs place masks where the training targets are sampled, unless --set says otherwise.
    """
    from mdqe.config import MDQEConfig
    from mdqe.weights.folder import CONFIG_FILE, read_config
    from mdqe.weights.source import open_source

    if args.fields:
        config = MDQEConfig.from_dict(args.fields)
    elif args.preset:
        config = MDQEConfig.preset(args.preset)
    elif args.config:
        config = read_config(args.config)
    elif args.init and Path(args.init).is_file():
        raise InputError(f"--init {args.init} is a file of weights without a configuration; add --preset or --config")
    elif args.init and args.init != "imagenet":
        config = read_config(open_source(args.init)(CONFIG_FILE))
    else:
        raise InputError("no model is named; expected --preset NAME, --config JSON or --init ID|FOLDER")
    alignment = config.mask_alignment if args.fields else "centered"
    return config.replace(**{"mask_alignment": alignment, **dict(args.set)})


def read_recipe(args: argparse.Namespace) -> "Recipe":
    """The recipe of the preset, with the values of the options that are given."""
    from mdqe.training.recipe import Recipe

    recipe = Recipe.of(args.preset)
    given: dict[str, Any] = {"learning_rate": args.lr, "warmup_steps": args.warmup}
    given |= {
        name: getattr(args, name) for name in ("steps", "batch", "backbone_multiplier", "weight_decay", "clip_norm")
    }
    shares = recipe.decay_shares() if args.decay is None else args.decay
    if args.edges is not None:
        size = {"shorter_edges": (), "crop_type": None} if args.edges == NATIVE else {"shorter_edges": args.edges}
        given |= {"video": {**recipe.video, **size}, "image": {**recipe.image, **size}}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    return replace(recipe, decay_steps=tuple(round(share * recipe.steps) for share in shares))


def open_sets(
    names: Sequence[str], config: "MDQEConfig", recipe: "Recipe", args: argparse.Namespace
) -> "list[DataSet]":
    """Open the training sets. The first set defines the categories."""
    from mdqe.distributed import rank
    from mdqe.training.sources import open_data

    sets: list[DataSet] = []
    options = {"size": args.size, "seed": args.seed, "skip_bad": args.skip_bad, "progress": rank() == 0}
    for name in names:
        first = sets[0].categories if sets else None
        sets.append(open_data(name, config.clip_length, recipe, categories=first, **options))
    return sets


def validation(args: argparse.Namespace, config: "MDQEConfig", log: Callable[[str], None]) -> "Validation | None":
    """The validation of --validate, with the same checks as for a training set."""
    from mdqe.training.sources import synthetic_difficulty
    from mdqe.training.validation import annotated_validation, synthetic_validation

    if args.validate is None:
        return None
    options: dict[str, Any] = {"folder": args.output / "validation", "say": log}
    difficulty = synthetic_difficulty(args.validate)
    if difficulty is None:
        options |= {"config": config, "skip_bad": args.skip_bad}
        return annotated_validation(args.validate, args.validate_videos, **options)
    options |= {"seed": args.seed + 1, "size": args.size, "difficulty": difficulty}  # scenes not used for training
    return synthetic_validation(args.validate_videos, **options)


def _log_and_keep(log: Callable[[str], None], lines: list[str], text: str) -> None:
    log(text)
    lines.append(text)


def _silent(text: str) -> None:
    pass


def resolve_options(args: argparse.Namespace) -> argparse.Namespace:
    """Complete the options: those that are not given come from the resumed run, otherwise from DEFAULTS.

    Raises:
        OSError: the folder is in use, or its settings cannot be read.
        InputError: the settings are damaged, or options are missing or contradict each other.
    """
    path = args.output / SETTINGS
    stored: dict[str, Any] = {}
    if args.resume and path.is_file():
        parser = argparse.ArgumentParser(add_help=False)
        add_arguments(parser)
        replaced = args.preset or args.config  # another model replaces the stored one
        stored = read_settings(path, parser, ("preset", "config", FIELDS) if replaced else ())
    elif args.output.exists() and not args.output.is_dir():
        raise FileExistsError(f"{args.output} is a file, expected a folder")
    elif not args.resume and args.output.exists() and any(args.output.iterdir()):
        raise FileExistsError(f"{args.output} is in use; choose a new folder, or continue the run with --resume")
    resolved = argparse.Namespace(**vars(args), fields=stored.get(FIELDS))
    for name, value in vars(args).items():
        if value is None:
            setattr(resolved, name, stored.get(name, DEFAULTS.get(name)))
    if resolved.preset and resolved.config:
        raise InputError("--preset and --config exclude each other")
    if args.resume and not path.is_file() and not args.data:
        raise FileNotFoundError(f"no run in {args.output}: {SETTINGS} is missing; a new run needs --data")
    if not resolved.data:
        raise InputError("--data is missing; expected a training set")
    return resolved


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
    return choice(*LOSSES)(name), number(0)(value)


def _shares(text: str) -> tuple[float, ...]:
    shares = several(number(0, 1))(text)
    if 0 in shares or list(shares) != sorted(shares):
        raise argparse.ArgumentTypeError(f"{text!r} is not an increasing list of fractions, such as 0.6,0.8")
    return shares
