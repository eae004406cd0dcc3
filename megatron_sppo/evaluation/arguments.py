"""Options of ``megatron-sppo eval``, one per key of `EvalConfig`; imports nothing heavy."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from megatron_sppo.config.schema import EvalConfig
from megatron_sppo.errors import UserError

EXAMPLE = """\
examples:
  megatron-sppo eval --model models/base --benchmarks aime24,aime25,amc23,math500,minerva --data data --nproc 8
  megatron-sppo eval --model runs/sppo --benchmarks aime24,amc23 --preset paper --baseline models/base --nproc 8 --output eval
  megatron-sppo eval --model runs/sppo --benchmarks mine=problems.jsonl --samples 4 --limit 10

Started again with the same --output it goes on from the last finished chunk of problems."""

# What a paper calls its protocol. Any option given beside --preset overrides it.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"temperature": 0.6, "top_p": 1.0, "max_tokens": 8192, "samples": 16},
    "deepseek": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32768, "samples": 16},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), help="; ".join(f"{name}: {shown(values)}" for name, values in PRESETS.items())
    )
    parser.add_argument("--nproc", metavar="N", type=int, help="start N ranks on this machine (default: this process)")
    hints = get_type_hints(EvalConfig)
    for field in fields(EvalConfig):
        hint, default = hints[field.name], field.default
        is_list, is_choice = get_origin(hint) is tuple, get_origin(hint) is Literal
        parser.add_argument(
            option(field.name),
            type=str if is_list or is_choice else hint,
            choices=get_args(hint) if is_choice else None,
            metavar=None if is_choice else {int: "N", float: "X"}.get(hint, "A,B" if is_list else "TEXT"),
            default=argparse.SUPPRESS,  # absent = the preset's, then the schema's
            required=field.name in ("model", "benchmarks"),
            help=field.metadata["meaning"] + (f" (default: {default})" if default not in ("", ()) else ""),
        )


def option(key: str) -> str:
    return "--" + key.replace("_", "-")


def shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def config_of(arguments: argparse.Namespace) -> EvalConfig:
    """The config of what was typed, over the preset, over the defaults."""
    values = dict(PRESETS.get(arguments.preset, {}))
    hints = get_type_hints(EvalConfig)
    for field in fields(EvalConfig):
        if field.name in arguments:
            typed = getattr(arguments, field.name)
            values[field.name] = split(field.name, typed) if get_origin(hints[field.name]) is tuple else typed
    return EvalConfig(**values)


def split(key: str, typed: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in typed.split(","))
    if "" in parts:
        raise UserError(f"{option(key)} {typed!r} has an empty entry; write names with one comma between them")
    return parts


def words_of(config: EvalConfig) -> list[str]:
    """The command line that makes ``config``: what every rank is started with."""
    words = []
    for field in fields(EvalConfig):
        value = getattr(config, field.name)
        if value != field.default:
            words.append(f"{option(field.name)}={','.join(value) if isinstance(value, tuple) else value}")
    return words
