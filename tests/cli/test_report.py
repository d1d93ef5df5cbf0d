"""`nextvec report` on the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nextvec.corpus.store import Store


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path) -> Path:
    """A finished run of its own."""
    return Path(shutil.copytree(trained, tmp_path / "small-lstm"))


def test_a_run_gets_a_report_beside_it(cli: Callable, run_folder: Path) -> None:
    outcome = cli("report", run_folder, "--figures=loss_comparison,cosine_comparison", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    page = run_folder / "report" / "report.html"
    left_out, made = outcome.out.splitlines()
    assert left_out.startswith("left out cosine_comparison: a run alone is not evaluated")
    assert made.startswith(f"{page}   0.")
    assert {path.name for path in (page.parent / "comparison_plots").iterdir()} == {
        "loss_comparison.png",
        "loss_comparison.svg",
    }
    assert 'id="figure-loss_comparison"' in page.read_text()


def test_a_report_lies_where_it_is_asked_for_and_without_figures(
    cli: Callable, run_folder: Path, world: Store, tmp_path: Path
) -> None:
    out = tmp_path / "there"
    outcome = cli("report", run_folder, "--out", out, "--store", world.path, "--figures=none", "--quiet")
    assert outcome.code == 0
    assert (out / "report.html").is_file()
    assert not (out / "comparison_plots").exists()
    assert not (run_folder / "report").exists()


def test_progress_is_told(cli: Callable, run_folder: Path) -> None:
    outcome = cli("report", run_folder, "--figures=lr_schedule")
    assert "1/1 figures" in outcome.err


def test_deep_judges_a_run(cli: Callable, run_folder: Path) -> None:
    outcome = cli("report", run_folder, "--deep", "--figures=none", "--quiet")
    assert outcome.code == 0
    assert (run_folder / "report" / "judged.json").is_file()
    assert "best baseline" in (run_folder / "report" / "report.html").read_text()
