"""Configuration is strict: what is not meant is refused, with the key and the file named."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.config import (
    Checked,
    from_dict,
    merge,
    number,
    parse_assignments,
    read_toml,
    to_dict,
    write_toml,
)
from nextvec.errors import ConfigError


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    steps: int = 10
    schedule: Literal["cosine", "plateau"] = "cosine"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError("lr must be positive")


@dataclass(frozen=True)
class Config:
    name: str
    optim: Optim = field(default_factory=Optim)
    sources: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    note: str | None = None


def test_round_trip_through_toml(tmp_path: Path) -> None:
    config = Config("a", Optim(lr=4e-4, schedule="plateau"), ("x", "y"), {"mse": 1.0})
    write_toml(tmp_path / "c.toml", config)
    assert from_dict(Config, read_toml(tmp_path / "c.toml"), where="c.toml") == config


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"name": "a", "optim": {"lrr": 1.0}}, "optim.lrr"),
        ({"name": "a", "optim": {"lr": "4e-4"}}, "optim.lr"),
        ({"name": "a", "optim": {"steps": True}}, "optim.steps"),
        ({"name": "a", "optim": {"steps": 1.5}}, "optim.steps"),
        ({"name": "a", "optim": {"schedule": "linear"}}, "cosine, plateau"),
        ({"name": "a", "optim": {"lr": -1.0}}, "lr must be positive"),
        ({"name": "a", "optim": 3}, "optim"),
        ({"name": "a", "steps": 3}, "unknown key 'steps'; did you mean 'optim.steps'?"),
        ({"name": "a", "sources": ["x", 3]}, "sources[1]"),
        ({"name": "a", "weights": {"mse": "one"}}, "weights.mse"),
        ({}, "name"),
    ],
)
def test_what_is_not_meant_is_refused(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Config, values, where="here.toml")
    assert named in str(caught.value)
    assert "here.toml" in str(caught.value)


@dataclass(frozen=True)
class Numbers(Checked):
    rate: float = number(1.0, above=0)
    share: float = number(0.5, least=0, most=1)
    drop: float = number(0.0, least=0, below=1)
    count: int | None = number(None, least=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.0}, "rate is 0.0; it must be above 0"),
        ({"rate": float("inf")}, "rate is inf; it must be above 0"),
        ({"share": 1.5}, "share is 1.5; it must be between 0 and 1"),
        ({"share": float("nan")}, "share is nan; it must be between 0 and 1"),
        ({"drop": 1.0}, "drop is 1.0; it must be in [0, 1)"),
        ({"count": 1}, "count is 1; it must be at least 2"),
    ],
)
def test_numbers_are_checked_however_a_configuration_is_built(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Numbers(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=re.escape(f"f: Numbers: {message}")):
        from_dict(Numbers, values, where="f")
    assert from_dict(Numbers, {"share": 1.0, "count": 2}, where="f") == Numbers(share=1.0, count=2)


def test_nearest_key_is_suggested() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'optim\.schedule'"):
        from_dict(Config, {"name": "a", "optim": {"shedule": "cosine"}}, where="f")


@pytest.mark.parametrize("text", ["a = ", "= 3", "[x"])
def test_broken_toml_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        read_toml(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        read_toml(tmp_path / "none.toml")


def test_assignments_are_toml_or_text() -> None:
    parsed = parse_assignments(["optim.lr=4e-4", "name=lstm", "sources=['a','b']", "optim.steps=3"])
    assert parsed == {"optim": {"lr": 4e-4, "steps": 3}, "name": "lstm", "sources": ["a", "b"]}


def test_assignment_without_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_assignments(["optim.lr"])


keys = st.text("abc", min_size=1, max_size=2)
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(keys, trees), st.dictionaries(keys, trees), st.dictionaries(keys, trees))
def test_merging_is_associative_and_the_last_layer_wins(
    a: dict[str, object], b: dict[str, object], c: dict[str, object]
) -> None:
    assert merge(merge(a, b), c) == merge(a, b, c)
    assert merge(a, a) == a
    for key, value in b.items():
        if not isinstance(value, dict):
            assert merge(a, b)[key] == value


def test_none_is_left_out_of_toml() -> None:
    assert "note" not in to_dict(Config("a"))
