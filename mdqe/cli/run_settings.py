"""The options of a training run in its run.json. They are checked as the parser checks those of the command line."""

import argparse
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mdqe.annotations.records import short
from mdqe.errors import InputError
from mdqe.files import read_json, whole_file

FIELDS = "fields"
"""The entry with the fields of the configuration. The other entries are options."""


def write_settings(path: Path, options: dict[str, Any], fields: dict[str, Any]) -> None:
    """Write options by name and the fields of the configuration.

    Raises:
        OSError: the file cannot be written.
    """
    with whole_file(path) as partial:
        partial.write_text(json.dumps({**options, FIELDS: fields}, indent=2, default=str) + "\n", encoding="utf-8")


def read_settings(path: Path, parser: argparse.ArgumentParser, ignored: Collection[str] = ()) -> dict[str, Any]:
    """The options in a file of `write_settings` as the parser returns them, and the configuration under FIELDS.

    Args:
        path: the file.
        parser: has an argument for each option.
        ignored: names of entries that are not read.

    Raises:
        OSError: the file cannot be read.
        InputError: not an object, an unknown entry, or a value that the parser or the configuration does not accept.
    """
    from mdqe.config import MDQEConfig
    from mdqe.training.recipe import Recipe

    stored = read_json(path)
    if not isinstance(stored, dict):
        raise InputError(f"{path} contains {short(stored)}, expected an object of options")
    actions = {action.dest: action for action in parser._actions}
    options: dict[str, Any] = {}
    for name, value in stored.items():
        if name not in actions and name != FIELDS:
            raise InputError(f"{path} has an unknown option {short(name)}")
        if name in ignored or value is None:
            continue
        if name != FIELDS:
            options[name] = _option(path, actions[name], value)
        elif isinstance(value, dict):
            options[name] = value
        else:
            raise InputError(f"{path}: {name} is {short(value)}, expected an object of configuration fields")
    try:
        Recipe.of(options.get("preset"))
        if FIELDS in options:
            MDQEConfig.from_dict(options[FIELDS]).replace(**dict(options.get("set", ())))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    return options


def _option(path: Path, action: argparse.Action, value: Any) -> Any:
    """The value of an option as the parser returns it."""
    wrong = f"{path}: {action.dest} is {short(value)}, expected a value of {action.option_strings[-1]}"
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{wrong}: true or false")
        return value
    if action.dest in ("checkpointing", "freeze") and value == []:
        return ()
    repeated = isinstance(action, argparse._AppendAction)
    if repeated and not isinstance(value, list):
        raise InputError(f"{wrong}: a list")
    try:
        found = [_parsed(action, one) for one in value] if repeated else _parsed(action, value)
    except (argparse.ArgumentTypeError, ValueError) as error:
        reason = str(error) if len(str(error)) < 160 else f"...{str(error)[-100:]}"  # it begins with the value
        raise InputError(f"{wrong}: {reason}") from error
    if json.loads(json.dumps(found, default=str)) != value:  # such as "3" for 3
        raise InputError(wrong)
    return found


def _parsed(action: argparse.Action, value: Any) -> Any:
    text = _text(action.dest, value)
    if b"\0" in os.fsencode(text):  # a command line cannot have one
        raise argparse.ArgumentTypeError("a text with a null character")
    found = action.type(text) if callable(action.type) else text
    if action.choices is not None and found not in action.choices:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(action.choices)}")
    return found


def _text(name: str, value: Any) -> str:
    """What a user would write after the option for this value."""
    match name, value:
        case "size", [height, width]:
            return f"{width}x{height}"
        case "set", [str(field), setting]:
            return f"{field}={json.dumps(setting)}"
        case "loss_weight", [loss, weight]:
            return f"{loss}={weight}"
        case (("edges" | "decay" | "checkpointing" | "freeze"), [_, *_]):
            return ",".join(map(str, value))
    return str(value)
