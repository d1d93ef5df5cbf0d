"""A model card says what the tables say, nothing of this machine, and its code runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from by_hand import by_hand
from nextvec.cli.main import run as command_line
from nextvec.corpus.store import Store
from nextvec.errors import ConfigError, RunError
from nextvec.evaluation.table import TABLE, read_table
from nextvec.reporting.card import make_card, write_card
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.report import make_report
from nextvec.reporting.result_files import plain


def card_of(run: Path, store: Path | None = None) -> str:
    return make_card(ReportInputs.of(run, store=store))


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def test_the_metadata_has_the_runs_figures_with_their_intervals(matrix: Path) -> None:
    card = card_of(matrix / "runs" / "lstm-seed1")
    row = next(row for row in read_table(matrix)["rows"] if row["name"] == "lstm")
    own = next(each for each in row["per_seed"] if each["name"] == "lstm-seed1")
    data = ModelCard(card).data
    assert (data.license, data.library_name) == ("unknown", "nextvec")
    assert "lstm" in data.tags
    found = {result.metric_type: result for result in data.eval_results}
    assert found.keys() == {"cosine", "mse", "recall@1", "recall@5", "mrr"}
    for metric, result in found.items():
        versus = row["versus_best_baseline"][metric]
        assert result.metric_value == own[metric]
        assert {key: result.metric_args[key] for key in ("difference", "low", "high")} == {
            key: versus[key] for key in ("difference", "low", "high")
        }
        assert result.metric_args["best_baseline"] == read_table(matrix)["best_baseline"][metric]
        assert result.metric_args["seeds"] == 2


def test_results_stand_beside_the_best_baseline(matrix: Path) -> None:
    table = read_table(matrix)
    row = next(row for row in table["rows"] if row["name"] == "amn")
    best = table["best_baseline"]["cosine"]
    figure = next(each["cosine"] for each in table["rows"] if each["name"] == best)
    card = card_of(matrix / "runs" / "amn-seed0")
    line = next(line for line in card.splitlines() if line.startswith("| cosine "))
    assert f"| {row['cosine']:.4f} | {best} | {figure:.4f} | " in line
    versus = row["versus_best_baseline"]["cosine"]
    assert f"{versus['difference']:+.4f} \\[{versus['low']:+.4f}, {versus['high']:+.4f}\\]" in line
    assert "means of 2 runs" in card
    worse = [m for m, versus in row["versus_best_baseline"].items() if versus["better"] is False]
    limit = [line for line in card.splitlines() if "simple baseline is better" in line]
    assert bool(limit) == bool(worse)
    assert all(plain(metric) in limit[0] for metric in worse)


def test_the_tables_are_whole(matrix: Path) -> None:
    card = card_of(matrix / "runs" / "lstm-seed0")
    tables = re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_it_tells_what_was_trained_on_and_how(trained: Path, world: Store) -> None:
    card = card_of(trained)
    chunks = {name: int(n) for name, n in re.findall(r"\| (books|web) \| \d+ \| (\d+) \|", card)}
    documents = json.loads((trained / "config.json").read_text())["training"]["documents"]
    assert f"| Documents trained on | {documents} |" in card
    assert sum(chunks.values()) == 12 * documents
    assert "1 x mse" in card
    assert "learning rate 0.01 (cosine)" in card
    assert "10% validation, 10% test" in card
    assert str(trained.parent) not in card
    assert str(world.path.parent) not in card


def test_a_run_that_nobody_evaluated_says_so_and_how(
    trained: Path, world: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_of(trained)
    assert "Not evaluated" in card
    assert ModelCard(card).data.eval_results is None
    monkeypatch.chdir(trained.parent)
    commands = blocks(card, "console")
    assert len(commands) == 2
    assert commands[0].strip() in commands[1]
    assert "nextvec predict" not in card, "its encoder is a server's"
    done(commands[0].strip(), world.path, "--no-speed")
    assert "small-lstm" in capsys.readouterr().out
    done(commands[1].splitlines()[0], world.path)
    assert "the run matches what was saved with it" in capsys.readouterr().out


def test_its_code_and_its_commands_run(
    text_run: Path, text_store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_of(text_run)
    monkeypatch.chdir(text_run.parent)
    (code,) = blocks(card, "python")
    output: dict[str, torch.Tensor] = {}
    exec(code, output)  # noqa: S102 - the point of the test
    assert output["prediction"].unit.shape == (1, 5, text_store.dimension)
    assert output["prediction"].unit[:, -1].norm().item() == pytest.approx(1.0, abs=1e-5)
    done(blocks(card, "console")[-1].splitlines()[-1], text_store.path)
    assert "The next passage" in capsys.readouterr().out


def done(line: str, store: Path, *flags: str) -> None:
    """Run a line of the card as a user would, with the store in its place."""
    prompt, program, *words = shlex.split(line.replace("STORE", str(store)))
    assert (prompt, program) == ("$", "nextvec")
    with pytest.raises(SystemExit) as left:
        command_line([*words, *flags])
    assert left.value.code in (0, None)


def test_an_interrupted_run_has_a_card_and_one_without_a_model_has_none(
    interrupted_run: Path, matrix: Path
) -> None:
    card = card_of(interrupted_run)
    assert "interrupted" in card
    assert ", not finished |" in card
    (interrupted_run / "model.safetensors").unlink()
    with pytest.raises(RunError, match="has no model yet; go on with nextvec train --resume"):
        card_of(interrupted_run)
    with pytest.raises(RunError, match="holds many runs"):
        card_of(matrix)


def test_a_run_that_moved_without_its_store_still_has_a_card(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(trained, run)
    metadata = json.loads(by_hand(run / "run.json"))
    (run / "run.json").write_text(json.dumps({**metadata, "store": "nowhere"}))
    card = card_of(run)
    assert "Documents trained on" in card
    assert "by source" not in card


def test_what_another_matrix_evaluated_is_not_this_runs(matrix: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "runs" / "another")
    shutil.copyfile(matrix / TABLE, tmp_path / TABLE)
    assert "Not evaluated" in card_of(tmp_path / "runs" / "another")


def test_only_our_own_card_is_replaced_and_its_licence_kept(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    inputs = ReportInputs.of(run)
    assert write_card(inputs, licence="cc-by-4.0") == run / "README.md"
    write_card(inputs)
    assert ModelCard.load(run / "README.md").data.license == "cc-by-4.0"
    assert "Nobody has named a licence" not in (run / "README.md").read_text()
    (run / "README.md").write_text("mine")
    with pytest.raises(RunError, match="was not written by nextvec card"):
        write_card(inputs)
    assert (run / "README.md").read_text() == "mine"
    with pytest.raises(ConfigError, match="not the name of a licence"):
        write_card(inputs, tmp_path / "card.md", licence="a: b")
    assert not (tmp_path / "card.md").exists()


def test_the_report_of_a_run_writes_its_card_with_what_was_evaluated(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    made = make_report(ReportInputs.of(run, deep=True), run / "report", figures=(), quiet=True)
    assert run / "README.md" in made.files
    card = (run / "README.md").read_text()
    assert "Not evaluated" not in card
    assert "The figures are of this run." in card
    assert card_of(run) == card, "the table is kept beside the report"


def test_names_cannot_break_the_page() -> None:
    assert plain("a|b\n<script>*x*_y_ `z` [u](v) \\") == (
        "a\\|b \\<script\\>\\*x\\*\\_y\\_ \\`z\\` \\[u\\](v) \\\\"
    )
