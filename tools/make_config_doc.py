"""Writes docs/config.md from the dataclasses of the config: ``python tools/make_config_doc.py`` (a test compares the two)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_sppo.config.algorithms import PRESETS
from megatron_sppo.config.load import Knob, describe, type_name
from megatron_sppo.config.schema import Config, SFTConfig

TARGET = Path(__file__).resolve().parent.parent / "docs" / "config.md"

HEAD = """\
# Every key

Made by `python tools/make_config_doc.py` from `megatron_sppo/config/`; do not edit. `megatron-sppo config train` (or `sft`)
prints the same.

A key is written in a YAML file (`actor: {optimizer: {lr: 1e-6}}`) or on the command line (`actor.optimizer.lr=1e-6`), which wins.
A file may build on others with `defaults: base.yaml` or a list of them. An unknown key is an error that names the nearest one;
values out of range and values that contradict each other are errors before anything is built. The run writes what it resolved to
`<run_dir>/config.yaml`. `required` has no default.
"""

PRESET_HEAD = """\
## Defaults that come with an algorithm

`algorithm.name` sets these where nobody has written anything:
"""


def main() -> None:
    TARGET.write_text(document(), encoding="utf-8")


def document() -> str:
    """The whole page."""
    parts = [HEAD, *_tables("megatron-sppo train", Config), PRESET_HEAD, _presets(), *_tables("megatron-sppo sft", SFTConfig)]
    return "\n".join(parts) + "\n"


def _tables(title: str, kind: type) -> list[str]:
    """A table per section, in the order of the schema."""
    sections: dict[str, list[str]] = {}
    for knob in describe(kind):
        cells = (f"`{knob.key}`", _cell(type_name(knob.type)), _default(knob), _cell(knob.meaning))
        sections.setdefault(knob.key.rpartition(".")[0], []).append(f"| {' | '.join(cells)} |")
    columns = "| key | type | default | meaning |\n|---|---|---|---|"
    return [f"# {title}\n", *("\n".join([f"## {_title(name)}\n", columns, *rows, ""]) for name, rows in sections.items())]


def _title(section: str) -> str:
    return f"`{section}`" if section else "The run"


def _default(knob: Knob) -> str:
    if knob.default == "" and knob.key in {"actor.path", "model.path"}:
        return "required"
    if knob.key == "critic.path":
        return "`actor.path`"
    if knob.default in {"", ()}:
        return "empty"
    return f"`{_plain(knob.default)}`"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _presets() -> str:
    lines = [
        f"| `{name}` | {', '.join(f'`{key}={_plain(value)}`' for key, value in presets.items())} |"
        for name, presets in PRESETS.items()
    ]
    return "\n".join(["| `algorithm.name` | |", "|---|---|", *lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    main()
