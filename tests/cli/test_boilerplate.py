"""Forty pages with one footer, all the way from ingest to the table: nothing on it dead-ends."""

from __future__ import annotations

from pathlib import Path

import pytest

FOOTER = (
    "Copyright of the makers of this site. All of the pages may be copied and changed under the terms of the "
    "licence, which stands on the first page and in every archive of them."
)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """40 HTML pages of 12 different paragraphs of about 50 words, and one identical footer of 30."""
    folder = tmp_path / "pages"
    folder.mkdir()
    for i in range(40):
        own = [" ".join(f"word{k} of passage {p} on page {i}" for k in range(8)) + "." for p in range(12)]
        (folder / f"{i:02d}.html").write_text("".join(f"<p>{p}</p>\n" for p in [*own, FOOTER]))
    return folder


@pytest.mark.usefixtures("hash_encoder")
@pytest.mark.parametrize("keep", [False, True])
def test_forty_pages_with_one_footer_go_all_the_way(
    cli, tiny: tuple[str, ...], pages: Path, tmp_path: Path, keep: bool
) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    made = cli("ingest", pages, "--out", store, "--quiet", *(["--keep-boilerplate"] if keep else []))
    assert made.code == 0
    assert "1 paragraph recurs in three or more different documents" in made.out
    left_out = 0 if keep else 40
    assert f"in 40 documents, left out of {left_out}: Copyright of the makers" in made.out
    assert f"40 documents, {480 + 40 * keep} chunks added" in made.out
    assert ("--keep-boilerplate keeps them" in made.out) is not keep
    assert ("--drop-boilerplate leaves them out" in made.out) is keep
    training = ("train", store, "--model", "gru", "--out", run, "--quiet", *tiny)
    assert "few documents: of 40 the default split keeps 34 for training, 4 for validation and 2" in made.out
    trained = cli(*training)
    assert trained.code == 0
    assert "the test split is 2 documents (" in trained.err
    assert "--set data.split.test=0.3" in trained.err
    wider = cli(*training[:5], tmp_path / "wider", "--set", "data.split.test=0.3", *tiny)
    assert "the test split" not in wider.err
    output = cli("evaluate", run, "--store", store, "--no-speed", "--quiet", "--json", "-")
    assert output.code == 0, output.err
    dropped = output.json["dropped"]
    assert (dropped["windows"] > 0, dropped["causes"]) == (keep, int(keep))
    assert dropped["windows"] == (output.json["documents"] if keep else 0)
    for verb in (
        ("evaluate", "baselines", "--store", store, "--no-speed", "--quiet"),
        ("diagnose", "model", run, "--store", store, "--no-speed", "--quiet"),
        ("matrix", store, "--models", "gru", "--out", tmp_path / "matrix", "--no-speed", "--quiet", *tiny),
    ):
        done = cli(*verb)
        assert done.code == 0, (verb, done.err)
