"""Strict configuration: frozen dataclasses, TOML files, unknown key = error.

Layers are plain nested dictionaries merged left to right (defaults < recipe < file < flags), then built
into dataclasses once. The built object is what is saved with a run.

Ours rather than cattrs 26.2: that reads lr = "4e-4" as a number and steps = 1.5 as 1 unless every type gets a
hook, names neither the file nor the nearest key, and takes .12 s to import (this module: .04)."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nextvec.disk import write_text
from nextvec.errors import ConfigError, RunError
from nextvec.seals import CHANGED, seal_toml, toml_is_whole

T = TypeVar("T")
MAX_TOML_BYTES = 2**20
MAX_DEPTH = 64  # of a key's parts
_NO_KEY = re.compile(r"[^\w.\"' \t-]+")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of at most 1 MiB.

    Raises:
        ConfigError: no such file, or no TOML, or not what nextvec wrote (a file changed by hand is read when
            its first line, the checksum, is taken out).
    """
    try:
        if path.stat().st_size > MAX_TOML_BYTES:
            raise ConfigError("larger than 1 MiB", where=path, remedy="a configuration is a short TOML file")
        text = path.read_bytes().decode("utf-8")
        if not toml_is_whole(text):
            meant = "restore it, or take its first line out if the change is meant"
            raise ConfigError(CHANGED, where=path, remedy=meant)
        _refuse_depth(text, path)
        return tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError("no such configuration file", where=path, remedy="check the path") from None
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"is not TOML ({e})", where=path, remedy="correct the line named") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot be read ({e})", where=path) from None
    except (ValueError, RecursionError) as e:  # an integer of thousands of digits, brackets without end
        raise ConfigError(f"cannot be read ({e})", where=path, remedy="write it by hand") from None


def _refuse_depth(text: str, where: str | Path) -> None:
    """Raise ConfigError for a key of very many parts: the parser takes time and memory with their square."""
    dots, part = max((part.count("."), part) for part in _NO_KEY.split(text))
    if dots >= MAX_DEPTH:
        message = f"'{part.strip()[:40]}...' has {dots + 1:,} parts"
        raise ConfigError(message, where=where, remedy="a key has three or four")


def write_toml(path: Path, config: object) -> None:
    """Write a dataclass as TOML, atomically, its checksum first. None has no TOML form and is left out (it is
    the default)."""
    import tomli_w

    write_text(path, seal_toml(tomli_w.dumps(to_dict(config))))


def to_dict(config: object) -> dict[str, Any]:
    """A dataclass as nested dictionaries of TOML types, without the keys whose value is None."""

    def clean(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
            return {k: clean(v) for k, v in pairs if v is not None}
        if isinstance(value, Mapping):
            return {str(k): clean(v) for k, v in value.items() if v is not None}
        if isinstance(value, (tuple, list)):
            return [clean(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    result: dict[str, Any] = clean(config)
    return result


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; a later layer wins key by key."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = out.get(key)
            if isinstance(value, Mapping):
                out[key] = merge(old if isinstance(old, Mapping) else {}, value)
            else:
                out[key] = value
    return out


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries without what is None, and without what is then empty."""
    nested = {k: given(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    return {k: v for k, v in nested.items() if v is not None and v != {}}


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str | Path, prefix: str = "") -> T:
    """Build the dataclass `cls` from nested dictionaries, checking every key and type.

    Args:
        cls: a dataclass type whose field types are int, float, bool, str, tuple[X, ...], dict[str, X],
            Literal, Optional of these, or dataclasses.
        where: the file (or "flags") named in errors.
    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, missing required key, or a
            ValueError of the dataclass's own `__post_init__`. A key of a section that stands outside it is
            unknown too, and the section is named.
    """
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            deeper = [f"'{prefix}{n}'" for n in _nested(cls, key) if not isinstance(value, Mapping)]
            remedy = f"did you mean {' or '.join(deeper)}?" if deeper else _nearest(key, fields, prefix)
            raise ConfigError(f"unknown key '{prefix}{key}'", where=where, remedy=remedy)
    built = {k: _convert(hints[k], v, where, f"{prefix}{k}") for k, v in values.items()}
    for name, f in fields.items():
        if name not in built and f.default is f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"key '{prefix}{name}' is missing", where=where, remedy="add it")
    try:
        return cls(**built)
    except ValueError as e:
        raise ConfigError(f"{prefix.rstrip('.') or cls.__name__}: {e}", where=where) from None


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where a number of a configuration may lie: from `least` or above `above`, to `most` or below
    `below`."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        low = self.least if self.above is None else self.above
        high = self.most if self.below is None else self.below
        if high is None:
            return f"at least {low}" if self.above is None else f"above {low}"
        if self.above is None and self.below is None:
            return f"between {low} and {high}"
        return f"in {'[' if self.above is None else '('}{low}, {high}{']' if self.below is None else ')'}"

    def hold(self, value: float) -> bool:
        """Whether it lies there; NaN lies nowhere, infinity only where it is `most`."""
        below = math.inf if self.below is None and self.most is None else self.below
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (below is None or value < below)
        )


def number(
    default: Any = dataclasses.MISSING,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    **metadata: Any,
) -> Any:
    """A field of a `Checked` dataclass whose value has to lie within these bounds."""
    bounds = Bounds(least, above, most, below)
    return dataclasses.field(default=default, metadata={"bounds": bounds, **metadata})


class Checked:
    """Base of configurations: whoever builds one, this reader or a line of Python, its `number`s are checked.

    What depends on several fields is checked in a `__post_init__` of the subclass, after this one.
    """

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: naming the field, its value and where it may lie.
        """
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            bounds, value = f.metadata.get("bounds"), getattr(self, f.name)
            if bounds is not None and value is not None and not bounds.hold(value):
                raise ValueError(f"{f.name} is {value}; it must be {bounds}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, its keys joined by dots."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        inner = out
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return out


def refuse_changes(
    out: Path, then: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = ()
) -> None:
    """Raise RunError naming the first key, none of `free`, in which two flat configurations differ."""
    for key in sorted({*then, *now} - set(free)):
        if then.get(key) != now.get(key):
            message = f"the run was started with {key} = {then.get(key)}, not {now.get(key)}"
            remedy = "resume it with what it was started with, or train into another folder"
            raise RunError(message, where=out, remedy=remedy)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `section.key=value` flags; the value is TOML, or a plain string where TOML cannot read it."""
    out: dict[str, Any] = {}
    for text in assignments:
        key, eq, value = text.partition("=")
        if not eq or not key.strip():
            raise ConfigError(f"'{text}' is not KEY=VALUE", where="--set", remedy="write --set optim.lr=4e-4")
        _refuse_depth(text, "--set")
        try:
            parsed: Any = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            parsed = value
        except (ValueError, RecursionError) as e:
            raise ConfigError(f"'{text[:60]}...' cannot be read ({e})", where="--set") from None
        out = merge(out, nested({key.strip(): parsed}))
    return out


def _nested(cls: type, key: str) -> list[str]:
    """Where the sections below a dataclass, at any depth, have a key of this name: "data.split.test"."""
    found = []
    for name, hint in typing.get_type_hints(cls).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            own = [key] if key in (f.name for f in dataclasses.fields(hint)) else []
            found += [f"{name}.{below}" for below in [*own, *_nested(hint, key)]]
    return found


def _nearest(key: str, known: Iterable[str], prefix: str) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1)
    return f"did you mean '{prefix}{close[0]}'?" if close else f"known keys: {', '.join(names)}"


def _convert(hint: Any, value: Any, where: str | Path, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [a for a in args if a is not type(None)]
        if len(inner) == 1:
            return _convert(inner[0], value, where, key)
        for option in inner:
            try:
                return _convert(option, value, where, key)
            except ConfigError:
                continue
        raise _wrong_type(hint, value, where, key)
    if origin is typing.Literal:
        if value not in args:
            options = ", ".join(str(a) for a in args)
            raise ConfigError(f"'{key}' is '{value}'", where=where, remedy=f"choose one of: {options}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return from_dict(hint, value, where=where, prefix=f"{key}.")
        raise _wrong_type(hint, value, where, key)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], v, where, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(args[1], v, where, f"{key}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is not None or not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong_type(hint, value, where, key)
    return value


def _wrong_type(hint: Any, value: Any, where: str | Path, key: str) -> ConfigError:
    name = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    if dataclasses.is_dataclass(hint):
        name = f"table of {', '.join(f.name for f in dataclasses.fields(hint))}"
    message = f"'{key}' is {type(value).__name__} {value!r}"
    return ConfigError(message, where=where, remedy=f"give a {name or hint}")
