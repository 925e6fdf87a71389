"""`mdqe train`: a model from clips."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdqe.cli import say
from mdqe.cli.train_options import add_train_arguments, keep, settle

if TYPE_CHECKING:
    import torch

    from mdqe.config import MDQEConfig
    from mdqe.training.sources import DataSet
    from mdqe.training.trainer import Trainer
    from mdqe.training.validation import Validation

HELP = "train a model on videos, images or the synthetic set"
EXAMPLE = (
    "mdqe train --preset r50_ovis_360 --init imagenet --data synthetic -o run --batch 4 --steps 5000\n"
    "  torchrun --nproc-per-node 8 -m mdqe.train --preset r50_ovis_360 --init imagenet --data synthetic -o run"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_train_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train; the folder of the model goes to stdout. Bad input raises ValueError or OSError."""
    from mdqe.training.processes import process_group, rank
    from mdqe.training.step import NonFiniteLossError

    args = settle(args)
    with process_group(args.device) as device:
        talk = say if rank() == 0 else _silent
        trainer = build(args, device, talk)
        if rank() == 0:
            keep(args)
        if args.resume:
            found = trainer.resume()
            talk(f"resumed after step {trainer.done}" if found else f"{args.output} has no checkpoint: starting anew")
        try:
            trainer.train()
        except NonFiniteLossError as error:
            print(f"mdqe train: error: {error}", file=sys.stderr)
            return 1
        if rank() == 0:
            print(args.output)
    return 0


def build(args: argparse.Namespace, device: "torch.device", talk: Callable[[str], None]) -> "Trainer":
    """The trainer that the options describe."""
    import torch

    from mdqe.data.loader import MixedClips
    from mdqe.model import MDQE
    from mdqe.training.initialize import initial_model
    from mdqe.training.optimizer import StepDecay, adamw
    from mdqe.training.recipe import Recipe
    from mdqe.training.recompute import recompute_activations
    from mdqe.training.sources import open_data, split_ratio
    from mdqe.training.trainer import CHECKPOINT, Trainer

    recipe = Recipe.of(args.preset)
    config = read_config(args)
    names, ratios = zip(*(split_ratio(name) for name in args.data), strict=True)
    sets = [open_data(name, frames=config.clip_length, size=args.size, seed=args.seed) for name in names]
    config = with_categories(config, sets, dict(args.set))
    torch.manual_seed(args.seed)
    if args.resume and (args.output / CHECKPOINT).exists():
        model = MDQE(config).to(device)  # the checkpoint has its weights
    else:
        model = initial_model(config, args.init, reset_classes=args.reset_classes, say=talk).to(device)
    recompute_activations(model, args.checkpointing)
    steps = _given(args.steps, recipe.steps)
    return Trainer(
        model,
        MixedClips([one.clips for one in sets], ratios, seed=args.seed),
        args.output,
        adamw(
            model,
            _given(args.lr, recipe.learning_rate),
            backbone_multiplier=_given(args.backbone_multiplier, recipe.backbone_multiplier),
            weight_decay=_given(args.weight_decay, recipe.weight_decay),
        ),
        StepDecay(
            [round(share * steps) for share in _given(args.decay, recipe.decay_shares())],
            warmup_steps=_given(args.warmup, recipe.warmup_steps),
        ),
        steps=steps,
        batch=_given(args.batch, recipe.batch),
        accumulate=args.accumulate,
        clip_norm=_given(args.clip_norm, recipe.clip_norm) or None,
        amp=args.amp,
        average_decay=args.ema,
        seed=args.seed,
        workers=args.workers,
        log_every=args.log_every,
        save_every=args.save_every,
        validate=validation(args, talk),
        validate_every=args.validate_every,
        source=f"trained by mdqe train on {', '.join(args.data)}",
    )


def read_config(args: argparse.Namespace) -> "MDQEConfig":
    """The configuration of --preset, --config or the model of --init, with the changes of --set."""
    from mdqe.config import MDQEConfig
    from mdqe.source import open_source
    from mdqe.storage import CONFIG_FILE, read_config

    if args.preset:
        config = MDQEConfig.preset(args.preset)
    elif args.config:
        config = read_config(args.config)
    elif args.init and args.init != "imagenet":
        config = read_config(open_source(args.init)(CONFIG_FILE))
    else:
        raise ValueError("which model? --preset NAME or --config JSON")
    return config.replace(**dict(args.set))


def with_categories(config: "MDQEConfig", sets: "list[DataSet]", given: dict[str, object]) -> "MDQEConfig":
    """The configuration for the categories of the data, unless they were given.

    Raises:
        ValueError: sets of different categories.
    """
    first = sets[0]
    for other in sets[1:]:
        if (other.categories, other.category_ids) != (first.categories, first.category_ids):
            raise ValueError(f"the sets have different categories: {first.categories} and {other.categories}")
    if "num_classes" in given or "categories" in given:
        return config
    names = {"categories": first.categories, "category_ids": first.category_ids}
    return config.replace(num_classes=len(first.categories), **names)


def validation(args: argparse.Namespace, talk: Callable[[str], None]) -> "Validation | None":
    """What --validate asks for."""
    from mdqe.training.sources import synthetic_difficulty
    from mdqe.training.validation import synthetic_validation

    if args.validate is None:
        return None
    difficulty = synthetic_difficulty(args.validate)
    if difficulty is None:
        raise ValueError(f"--validate is {args.validate!r}, expected synthetic[:DIFFICULTY]")
    return synthetic_validation(
        args.validate_videos,
        seed=args.seed + 1,  # other scenes than those of training
        size=args.size,
        difficulty=difficulty,
        folder=args.output / "validation",
        say=talk,
    )


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _silent(text: str) -> None:
    pass
