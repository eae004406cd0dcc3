"""YAML files and ``key=value`` overrides -> the frozen dataclasses of :mod:`megatron_sppo.config.schema`, strictly.

Files are merged in order, a later one over an earlier one, overrides over all. A file may name others to build upon with
a top-level ``defaults: base.yaml`` (or a list; paths relative to the file). OmegaConf is only the parser here: plain YAML
1.1 reads ``1e-6`` as a string.

Example::

    config = load_config(Config, [Path("sppo.yaml")], ["actor.tp=2", "data.train=[a.jsonl,b.jsonl]"])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from megatron_sppo.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Knob:
    """One leaf of a config: ``actor.optimizer.lr``, its type, default and meaning."""

    key: str
    type: Any
    default: Any
    meaning: str


@dataclass(frozen=True)
class Given:
    """A value somebody wrote, and where: "in sppo.yaml" or "on the command line"."""

    value: Any
    where: str


def load_config(kind: type[T], files: Sequence[Path], overrides: Sequence[str] = ()) -> T:
    """The config of type ``kind``; raises UserError for a missing file, an unknown key or a value of the wrong type."""
    given: dict[str, Given] = {}
    for file in files:
        given.update(_read_file(kind, Path(file), including=()))
    for override in overrides:
        given.update(_read_override(kind, override))
    return _build(kind, "", {**_preset(kind, given), **given})


def _preset(kind: type, given: Mapping[str, Given]) -> dict[str, Given]:
    """The defaults that a choice brings along (``Config.PRESETS``); what anybody wrote goes over them."""
    if not hasattr(kind, "PRESETS"):
        return {}
    knob, presets = kind.PRESETS
    choice = given[knob].value if knob in given else _knobs(kind)[knob].default
    found = presets.get(choice, {}) if isinstance(choice, str) else {}
    return {key: Given(value, f"as {knob}={choice} has it") for key, value in found.items()}


def describe(kind: type) -> list[Knob]:
    """Every leaf of ``kind`` in the order of the schema."""
    return list(_knobs(kind).values())


def type_name(hint: Any) -> str:
    """How a type reads in help texts and errors: ``float``, ``auto | fp32 | bf16``, ``list of int``."""
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {type_name(get_args(hint)[0])}"
    return {bool: "true | false", str: "text"}.get(hint, str(hint.__name__))


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain values of a config: dicts, lists, scalars."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def dump_yaml(config: Any) -> str:
    """The whole config as YAML that :func:`load_config` reads back to an equal value."""
    return OmegaConf.to_yaml(OmegaConf.create(as_dict(config)))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_dict(value)
    return list(value) if isinstance(value, tuple) else value


# --- what the schema knows --------------------------------------------------------------------------------------------


def _walk(default: Any, prefix: str) -> Iterator[Knob]:
    """Leaves below a default-constructed section."""
    hints = get_type_hints(type(default))
    for field in dataclasses.fields(default):
        value, key = getattr(default, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _walk(value, key + ".")
        else:
            yield Knob(key, hints[field.name], value, field.metadata.get("meaning", ""))


@cache
def _knobs(kind: type) -> Mapping[str, Knob]:
    return MappingProxyType({knob.key: knob for knob in _walk(kind(), "")})


def _is_section(kind: type, key: str) -> bool:
    return any(knob.startswith(key + ".") for knob in _knobs(kind))


def nearest_key(kind: type, wrong: str) -> str:
    """The existing key that looks most like ``wrong``, by its whole path and by its last word."""

    def likeness(key: str) -> float:
        whole = SequenceMatcher(None, wrong, key).ratio()
        return whole + SequenceMatcher(None, wrong.rpartition(".")[2], key.rpartition(".")[2]).ratio()

    return max(_knobs(kind), key=likeness)


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_file(kind: type, file: Path, including: tuple[Path, ...]) -> dict[str, Given]:
    """Leaves of one YAML file over those of its ``defaults``; ``including`` guards against a circle."""
    if not file.is_file():
        wanted_by = f" (named by `defaults` of {including[-1]})" if including else ""
        raise UserError(f"config file {file}{wanted_by} does not exist: give the path of a YAML file")
    if file.resolve() in including:
        raise UserError(f"defaults={file} in {including[-1]} leads back to itself: remove one of the two `defaults`")
    content = _parse_yaml(file)
    given: dict[str, Given] = {}
    for name in _as_list(content.pop("defaults", [])):
        if not isinstance(name, str):
            raise UserError(f"defaults={name!r} in {file} is not a file name: write `defaults: other.yaml`")
        given.update(_read_file(kind, file.parent / name, (*including, file.resolve())))
    return given | dict(_leaves(kind, content, "", f"in {file}"))


def _parse_yaml(file: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config file {file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"config file {file} holds a {type(content).__name__}, not `key: value` lines: write a mapping")
    return {str(key): value for key, value in content.items()}


def _leaves(kind: type, content: Mapping[Any, Any], prefix: str, where: str) -> Iterator[tuple[str, Given]]:
    """Flatten nested mappings to dotted keys, refusing what the schema does not have."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if _is_section(kind, key):
            if not isinstance(value, Mapping):
                raise UserError(f"{key}={value!r} {where} is a section, not a value: write the keys below it")
            yield from _leaves(kind, value, key + ".", where)
        else:
            _require_known(kind, key, where)
            yield key, Given(value, where)


def _require_known(kind: type, key: str, where: str) -> None:
    if key not in _knobs(kind):
        raise UserError(f"unknown key {key} {where}: did you mean {nearest_key(kind, key)}?")


def _read_override(kind: type, override: str) -> dict[str, Given]:
    where = "on the command line"
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise UserError(f"override {override!r} has no value: write key=value, for example steps=10")
    if _is_section(kind, key):
        raise UserError(f"{key}={text} on the command line is a section, not a value: set one key below it, {key}.<key>=<value>")
    _require_known(kind, key, where)
    hint = _knobs(kind)[key].type
    is_text = hint is str or get_origin(hint) is Literal
    # A text is taken as typed: `data.prompt_suffix=Answer: x` and `logging.wandb=off` mean other things in YAML.
    return {key: Given(text if is_text else _parse_scalar(key, text), where)}


def _parse_scalar(key: str, text: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]  # type: ignore[index,call-overload]
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{key}={text} on the command line cannot be read as YAML: quote it, or write a list as [a,b]") from error


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- building ---------------------------------------------------------------------------------------------------------


def _build(kind: type[T], prefix: str, given: Mapping[str, Given]) -> T:
    """Construct ``kind`` from leaves below ``prefix``; what was not given keeps the default of its own section."""
    return _replace(kind(), prefix, given)


def _replace(default: T, prefix: str, given: Mapping[str, Given]) -> T:
    hints = get_type_hints(type(default))
    values: dict[str, Any] = {}
    for field in dataclasses.fields(default):  # type: ignore[arg-type]
        key, value = prefix + field.name, getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = _replace(value, key + ".", given)
        elif key in given:
            values[field.name] = _coerce(key, given[key], hints[field.name])
    return dataclasses.replace(default, **values)  # type: ignore[type-var]


def _coerce(key: str, given: Given, hint: Any) -> Any:
    """The given value as the knob's type; UserError where it is not one."""
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        return tuple(_coerce_scalar(key, Given(item, given.where), element, hint) for item in _as_list(given.value))
    return _coerce_scalar(key, given, hint, hint)


def _coerce_scalar(key: str, given: Given, hint: Any, shown: Any) -> Any:
    value = given.value
    if get_origin(hint) is Literal:
        return _choice(key, given, get_args(hint))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:  # `type is`: a bool is an int to isinstance, and tp=true is a mistake
        return value
    raise UserError(f"{key}={_shown(value)} {given.where} is not of type {type_name(shown)}: {_example(key, shown)}")


def _choice(key: str, given: Given, choices: tuple[Any, ...]) -> Any:
    value = given.value
    if isinstance(value, bool):  # YAML 1.1 reads a bare `off` as false
        words = ("on", "yes", "true") if value else ("off", "no", "false")
        value = next((word for word in words if word in choices), value)
    if value not in choices:
        raise UserError(f"{key}={_shown(value)} {given.where} is not a choice: pick one of {', '.join(map(str, choices))}")
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _example(key: str, hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"write {key}: [{_ELEMENTS[get_args(hint)[0]]}]"
    return f"write {_EXAMPLES[hint]}"


_ELEMENTS = {int: "1, 2", str: "one.jsonl, two.jsonl"}
_EXAMPLES = {
    int: "a whole number",
    float: "a number such as 1e-6",
    bool: "true or false",
    str: "text, quoted if it looks like a number",
}
