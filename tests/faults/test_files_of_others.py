"""What a file or a flag from elsewhere may say: a typed error, at once, and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from by_hand import by_hand
from nextvec.config import MAX_DEPTH, parse_assignments, read_toml
from nextvec.corpus.arrays import map_npy
from nextvec.corpus.readers.base import ReaderOptions, ReadReport
from nextvec.corpus.readers.pages import html_text
from nextvec.corpus.readers.wikitext import is_balanced
from nextvec.disk import read_json
from nextvec.errors import ConfigError, DocumentError, ModelError, RunError
from nextvec.models.registry import build
from nextvec.models.saving import load_model, save_model


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "header", [b"(" * 880, b"{" * 5000, b"'" * 99, b"{'descr': 9**99**9}", b"-" * 9000, b""]
)
def test_a_header_that_is_no_header_is_a_value_error(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "v.npy").write_bytes(npy(header + b"\n"))
    with pytest.raises(ValueError, match=r"header|EOF|Cannot parse|malformed"):
        map_npy(tmp_path / "v.npy")


def test_an_integer_of_thousands_of_digits_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("9" * 5000)
    with pytest.raises(RunError, match=r"metrics\.json: cannot be read"):
        read_json(tmp_path / "metrics.json", RunError)
    (tmp_path / "config.toml").write_text("v = " + "9" * 5000)
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
        read_toml(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match=r"--set: .* cannot be read"):
        parse_assignments(["optim.lr=" + "9" * 5000])


def test_brackets_without_end_are_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("v = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
        read_toml(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match=r"--set: .* cannot be read"):
        parse_assignments(["optim.lr=" + "[" * 100_000])


@pytest.mark.parametrize("text", ["{} = 1", "[{}]", "v = {{ {} = 1 }}", '"a"{} = 1'])
def test_a_key_of_very_many_parts_is_refused_before_it_is_parsed(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(
        text.format(".a" * 100_000 if text[0] == '"' else "a" + ".a" * 100_000)
    )
    with pytest.raises(ConfigError, match=r"has 100,001 parts"):
        read_toml(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match=r"--set.* parts"):
        parse_assignments(["a." * 100_000 + "b=1"])
    (tmp_path / "config.toml").write_text(".".join("a" * MAX_DEPTH) + " = 1")
    assert read_toml(tmp_path / "config.toml")


def test_sizes_are_bounded_in_product_too() -> None:
    with pytest.raises(ModelError, match=r"model lstm: needs more than \d+ GiB .*smaller sizes"):
        build("lstm", hidden=65_536, layers=65_536)
    with pytest.raises(ModelError, match=r"model transformer: has more than 20,000 tensors"):
        build("transformer", hidden=8, heads=1, ffn=8, layers=65_536, d_embed=8)


def test_sizes_in_a_saved_model_are_bounded_too(tmp_path: Path) -> None:
    save_model(tmp_path, build("lstm", hidden=8, d_embed=8))
    info = json.loads(by_hand(tmp_path / "config.json"))
    info["config"]["hidden"] = info["config"]["layers"] = 65_536
    (tmp_path / "config.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match="needs more than"):
        load_model(tmp_path)


def test_building_in_two_steps_draws_the_same_weights() -> None:
    import torch

    torch.manual_seed(0)
    built = build("lstm", hidden=8, d_embed=8)
    torch.manual_seed(0)
    plain = type(built)(built.config)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), plain.parameters(), strict=True))
    assert np.isfinite(float(built.scale))


@pytest.mark.parametrize("opening", ["<span>a ", "<p>a ", "<li>a ", "<div><b>a ", "</b>a "])
def test_a_page_of_tags_without_end_is_read_in_time_with_its_length(opening: str) -> None:
    text = html_text(opening * 20_000, ReaderOptions(), ReadReport(), Path("page.html"))[1]
    assert text.count("a") == 20_000


@pytest.mark.parametrize("opening", ["<a ", "<!-- ", "</", "<a href='"])
def test_a_page_that_ends_in_tags_without_an_end_is_refused(opening: str) -> None:
    with pytest.raises(DocumentError, match=r"page\.html: HTML that ends in 100,000 tags without an end"):
        html_text("<p>a</p>" + opening * 100_000, ReaderOptions(), ReadReport(), Path("page.html"))


@pytest.mark.parametrize("opening", ["<ref name=a ", "<a ", "<b", "<b>", "{{", "[[", "{|"])
def test_an_article_of_openings_without_end_is_left_out(opening: str) -> None:
    assert not is_balanced(opening * 100_000)
    assert is_balanced(opening * 100)


def test_an_article_with_comparisons_is_no_article_of_tags() -> None:
    assert is_balanced("a < b and <b>c</b> and 3 <4. " * 1000)
