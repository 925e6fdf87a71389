"""`mdqe train`: a model from clips."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe.cli import say
from mdqe.cli.train_options import add_train_arguments, keep, settle
from mdqe.errors import InputError, is_out_of_memory

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
    "  torchrun --nproc-per-node 8 -m mdqe.train --preset r50_ovis_360 --init imagenet --data synthetic -o run"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_train_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train; the folder of the model goes to stdout. Bad input raises ValueError or OSError."""
    from mdqe.distributed import process_group, rank
    from mdqe.training.step import NonFiniteLossError

    args = settle(args)
    with process_group(args.device) as device:
        talk = say if rank() == 0 else _silent
        trainer = build(args, device, talk)
        if rank() == 0:
            keep(args, trainer.model.config.to_dict())
        if args.resume:
            found = trainer.resume()
            talk(f"resumed after step {trainer.done}" if found else f"{args.output} has no checkpoint: starting anew")
        try:
            trainer.train()
        except NonFiniteLossError as error:
            say(f"mdqe train: error: {error}")
            return 1
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            say("mdqe train: error: out of memory; --checkpointing all, --accumulate N and --amp need less")
            return 1
        if rank() == 0:
            print(args.output)
    return 0


def build(args: argparse.Namespace, device: "torch.device", talk: Callable[[str], None]) -> "Trainer":
    """The trainer that the options describe."""
    import torch

    from mdqe.data.loader import MixedClips
    from mdqe.losses.criterion import configured_criterion
    from mdqe.model import MDQE
    from mdqe.training.initialize import initial_model
    from mdqe.training.optimizer import StepDecay, adamw
    from mdqe.training.recompute import recompute_activations
    from mdqe.training.sources import split_ratio
    from mdqe.training.trainer import CHECKPOINT, Trainer

    recipe = read_recipe(args)
    config = read_config(args)
    names, ratios = zip(*(split_ratio(name) for name in args.data), strict=True)
    sets = open_sets(names, config, recipe, args)
    if not {"num_classes", "categories"} & dict(args.set).keys():
        config = sets[0].categories.configure(config)
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
        criterion=configured_criterion(config, **{f"{name}_weight": weight for name, weight in args.loss_weight}),
        amp=args.amp,
        average_decay=args.ema,
        seed=args.seed,
        workers=args.workers,
        log_every=args.log_every,
        save_every=args.save_every,
        validate=validation(args, talk),
        validate_every=args.validate_every,
        source=f"trained by mdqe train on {', '.join(Path(name.partition('@')[0]).name for name in names)}",
    )


def read_config(args: argparse.Namespace) -> "MDQEConfig":
    """The configuration of the run that is resumed, of --preset, --config or the model of --init, changed by --set."""
    from mdqe.config import MDQEConfig
    from mdqe.weights.folder import CONFIG_FILE, read_config
    from mdqe.weights.source import open_source

    if args.fields:
        config = MDQEConfig.from_dict(args.fields)
    elif args.preset:
        config = MDQEConfig.preset(args.preset)
    elif args.config:
        config = read_config(args.config)
    elif args.init and args.init != "imagenet":
        config = read_config(open_source(args.init)(CONFIG_FILE))
    else:
        raise InputError("which model? --preset NAME or --config JSON")
    return config.replace(**dict(args.set))


def read_recipe(args: argparse.Namespace) -> "Recipe":
    """The preset's recipe, with the frames' sizes of --edges."""
    from mdqe.training.recipe import Recipe

    recipe = Recipe.of(args.preset)
    if args.edges is None:
        return recipe
    edges = () if args.edges == "native" else args.edges
    sizes = [{**one, "shorter_edges": edges} for one in (recipe.video, recipe.image)]
    if args.edges == "native":
        sizes = [{**one, "crop_type": None} for one in sizes]
    return replace(recipe, video=sizes[0], image=sizes[1])


def open_sets(
    names: Sequence[str], config: "MDQEConfig", recipe: "Recipe", args: argparse.Namespace
) -> "list[DataSet]":
    """The sets to train on; the first one's categories are those of all."""
    from mdqe.distributed import rank
    from mdqe.training.sources import open_data

    sets: list[DataSet] = []
    for name in names:
        opened = open_data(
            name,
            config.clip_length,
            recipe,
            categories=sets[0].categories if sets else None,
            size=args.size,
            seed=args.seed,
            skip_bad=args.skip_bad,
            progress=rank() == 0,
        )
        sets.append(opened)
    return sets


def validation(args: argparse.Namespace, talk: Callable[[str], None]) -> "Validation | None":
    """What --validate asks for."""
    from mdqe.training.sources import synthetic_difficulty
    from mdqe.training.validation import annotated_validation, synthetic_validation

    if args.validate is None:
        return None
    options = {"folder": args.output / "validation", "say": talk}
    difficulty = synthetic_difficulty(args.validate)
    if difficulty is None:
        return annotated_validation(args.validate, args.validate_videos, **options)
    return synthetic_validation(
        args.validate_videos,
        seed=args.seed + 1,  # other scenes than those of training
        size=args.size,
        difficulty=difficulty,
        **options,
    )


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _silent(text: str) -> None:
    pass
