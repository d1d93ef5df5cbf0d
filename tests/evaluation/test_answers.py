"""Answers kept beside a table say what the table says, and are refused where they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.errors import EvaluationError
from nextvec.evaluation.harness import EvaluationConfig, evaluate
from nextvec.evaluation.predictor_protocol import row_dots, unit
from nextvec.evaluation.results import KeptPredictions, Report


@pytest.fixture(scope="module")
def report(world: Store) -> Report:
    how = EvaluationConfig(baselines=("copy-last", "linear average"), keep=True, quiet=True)
    return evaluate(world, split_documents(world, SplitConfig(test=0.3)), "test", (), how)


def test_written_and_read_they_are_the_same(world: Store, report: Report, tmp_path: Path) -> None:
    made = KeptPredictions.of(report, world.fingerprint)
    made.write(tmp_path / "answers.safetensors")
    read = KeptPredictions.read(tmp_path / "answers.safetensors")
    assert read.store == world.fingerprint
    assert read.values.keys() == read.units.keys() == {"copy-last", "linear average"}
    for name in ("target", "last", "document"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    for row, unit_ in made.units.items():
        np.testing.assert_array_equal(read.units[row], unit_)
        assert read.values[row].keys() == made.values[row].keys()


def test_figures_can_be_had_back_from_them(world: Store, report: Report) -> None:
    answers = KeptPredictions.of(report, world.fingerprint)
    targets = unit(gather_rows(world.vectors, answers.target))
    for row in report.rows:
        again = row_dots(answers.units[row.name].astype(np.float32), targets).mean()
        assert again == pytest.approx(row.figures["cosine"], abs=1e-3)
        assert answers.values[row.name]["cosine"].mean() == pytest.approx(row.figures["cosine"], abs=1e-6)
    last = unit(gather_rows(world.vectors, answers.last))
    np.testing.assert_allclose(answers.units["copy-last"], last, atol=1e-3)


def test_what_was_not_kept_is_not_there(world: Store) -> None:
    how = EvaluationConfig(baselines=("copy-last",), quiet=True)
    report = evaluate(world, split_documents(world, SplitConfig(test=0.3)), "test", (), how)
    assert report.row("copy-last").units is None
    with pytest.raises(EvaluationError, match="answers were not kept"):
        KeptPredictions.of(report, world.fingerprint)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.safetensors").write_bytes(b"no such thing")
    with pytest.raises(EvaluationError, match=r"answers\.safetensors: holds no answers"):
        KeptPredictions.read(tmp_path / "answers.safetensors")
    with pytest.raises(EvaluationError, match=r"none: cannot be read"):
        KeptPredictions.read(tmp_path / "none")
