"""`nextvec surprise`: a text's curve on the terminal, and the table of finders."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from by_hand import by_hand
from nextvec.cli.surprise import BLOCKS, HEIGHT, PLAIN, Finder, draw_curve, terminal
from nextvec.corpus.store import Store
from nextvec.evaluation.boundaries import CURVES, surprise
from nextvec.experiments.surprise import FILE
from nextvec.inference.predictor import RunPredictor
from passages import documents

TWO = f"{documents()['river-arden']} {documents()['railway-dunmoor']}"


def test_a_document_of_a_store(cli, world: Store, trained: Path, tmp_path: Path) -> None:
    command = ("surprise", trained, "--store", world.path, "--document", "doc-7", "--peaks", 2)
    done = cli(*command, "--figure", tmp_path / "new" / "curve.svg", "--json", tmp_path / "output.json")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("small-lstm read 12 chunks of doc-7.")
    output = json.loads((tmp_path / "output.json").read_text())
    values = surprise(RunPredictor(trained), world.vectors, world.find("doc-7"))
    assert [chunk["surprise"] for chunk in output["chunks"]][1:] == pytest.approx(values[1:].tolist())
    assert len(output["peaks"]) == 2
    for at in output["peaks"]:
        text = output["chunks"][at]["text"]
        assert f"  {at + 1:>5}  {output['chunks'][at]['surprise']:.3f}  {text}" in done.out
    for first, last in output["segments"]:
        assert f"{first + 1:>5} - {last + 1:<5}  {output['chunks'][first]['text']}" in done.out
    assert (tmp_path / "new" / "curve.svg").read_text().rstrip().endswith("</svg>")


def test_a_text_from_a_file_a_flag_and_standard_input(
    cli, text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "note.txt"
    note.write_text(TWO, encoding="utf-8")
    from_file = cli("surprise", text_run, note, "--json", "-")
    assert (from_file.code, from_file.err) == (0, "")
    output = from_file.json
    assert (output["document"], len(output["chunks"])) == (str(note), 16)
    assert cli("surprise", text_run, "--text", TWO, "--json", "-").json["chunks"] == output["chunks"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TWO.encode())))
    assert cli("surprise", text_run, "-", "--json", "-").json["chunks"] == output["chunks"]


def test_without_a_run_the_model_of_the_package_reads(cli, world: Store, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text(TWO, encoding="utf-8")
    done = cli("surprise", "--file", note, "--json", "-")
    assert done.code == 0, done.err
    assert len(done.json["chunks"]) == 4
    refused = cli("surprise", "--store", world.path, "--fit")
    assert refused.code == 2
    assert "the model of the package keeps no finder; train one" in refused.err


def test_threshold_and_finder_decide_on_boundaries(cli, world: Store, trained: Path) -> None:
    command = ("surprise", trained, "--store", world.path, "--document", "doc-7", "--json", "-")
    for finder in CURVES:
        low = cli(*command, "--finder", finder, "--threshold", "-3").json
        high = cli(*command, "--finder", finder, "--threshold", "30").json
        assert low["finder"] == high["finder"] == finder
        assert len(low["segments"]) > len(high["segments"]) == 1


def test_finders_that_can_be_named_are_those_there_are() -> None:
    assert set(get_args(Finder)) == set(CURVES)


def test_the_best_finder_is_chosen_and_kept(cli, world: Store, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    command = ("surprise", run, "--store", world.path)
    done = cli(*command, "--fit", "--documents", 8, "--segment-chunks", "3-6", "--json", "-")
    assert done.json == json.loads(by_hand(run / FILE))
    assert done.json["segment_chunks"] == [3, 6]
    output = cli(*command, "--document", "doc-7", "--json", "-").json
    assert (output["finder"], output["rule"]["threshold"]) == (done.json["finder"], done.json["threshold"])
    assert "is the run's default now" in cli(*command, "--fit", "--documents", 4).out
    for wrong in ("3", "6-3", "0-3", "a-b"):
        assert "write 3-11" in cli(*command, "--fit", "--segment-chunks", wrong).err
    for wrong in (("--evaluate",), ("--baselines", "ridge"), ("--split", "train"), ("--peaks", "2")):
        assert "is of no use beside it" in cli(*command, "--fit", *wrong).err


def test_the_table_of_finders(cli, world: Store, trained: Path, tmp_path: Path) -> None:
    command = ("surprise", trained, "--store", world.path, "--evaluate", "--documents", 12, "--seed", 3)
    done = cli(*command, "--baselines", "copy-last,ridge", "--json", tmp_path / "table.json")
    assert done.code == 0
    assert "reading joined documents: 3/3 predictors" in done.err
    output = json.loads((tmp_path / "table.json").read_text())
    assert (output["documents"], output["seed"], output["split"]) == (12, 3, "test")
    lines = done.out.splitlines()
    for row in output["rows"]:
        [line] = [line for line in lines if line.startswith(f"{row['name']}  ")]
        cells = line[len(row["name"]) :].split()
        gap = row["versus"].get("pk")
        mark = "*" if gap is None else "-" if gap["low"] > 0 else "+" if gap["high"] < 0 else ""
        assert cells[:3] == [f"{row['pk']:.4f}{mark}", f"{row['window_diff']:.4f}", f"{row['f1']:.3f}"]
        assert gap is None or f"[{gap['low']:+.4f}, {gap['high']:+.4f}]" in line
    for verdict in output["verdicts"]:
        assert verdict in lines
    again = cli(*command, "--baselines", "copy-last,ridge", "--json", "-", "--quiet")
    assert (again.err, again.json) == ("", output)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=300), st.integers(20, 140), st.data())
def test_a_curve_fits_the_terminal(values: list[float], width: int, data: st.DataObject) -> None:
    starts = data.draw(st.lists(st.integers(1, len(values)), unique=True))
    lines = draw_curve(values, starts, width)
    assert len(lines) == HEIGHT + 2
    assert max(map(len, lines)) <= width
    assert lines[-2].count("^") <= len(starts)
    assert ("^" in lines[-2]) == bool(starts)
    top = max(1.0, *values)
    assert ("█" in lines[0]) == (round(8 * HEIGHT * max(values) / top) == 8 * HEIGHT)


def test_a_curve_by_hand() -> None:
    lines = draw_curve([0.5, 1.0, 0.0, 0.0625], [2], 17, BLOCKS)
    assert lines == [
        "  1.00     ██",
        *["           ██"] * 3,
        "  0.50   ████",
        *["         ████"] * 2,
        "         ████  ▄▄",
        "topics     ^",
        " chunk 1",
    ]


def test_many_chunks_share_a_column_and_few_get_several() -> None:
    narrow = draw_curve([0.1] * 50 + [0.9] + [0.1] * 48, [50], 17)
    assert narrow[-1] == " chunk 1", "91 has no room"
    [column] = [i for i, mark in enumerate(narrow[-2]) if mark == "^"]
    assert [i for i, bar in enumerate(narrow[1]) if bar != " "] == [12] == [column]
    wide = draw_curve([1.0, 0.0], [2], 80)
    assert wide[0] == f"{'1.00':>6}    ███"


def test_plain_characters_where_the_terminal_has_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert terminal() == (44, PLAIN)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert terminal() == (44, BLOCKS)
    assert len(PLAIN) == len(BLOCKS) == 9
    "\n".join(draw_curve([0.3, 0.8], [], 44, PLAIN)).encode("ascii")
