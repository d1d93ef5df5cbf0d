"""A run folder as the diagnosis reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from by_hand import by_hand
from nextvec.diagnostics.run import diagnose_run
from nextvec.errors import RunError
from nextvec.experiments.runs import RunFolder
from nextvec.training.history import read_history
from nextvec.training.loop import train


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a real run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_real_run_is_read(run):
    found = RunFolder.read(run).record()
    assert found.stopped == "epochs"
    assert len(found.epochs) == found.planned_epochs == 2
    assert found.targets == found.epochs[0].positions
    verdicts = {v.name: v.level for v in diagnose_run(found).verdicts}
    assert verdicts["schedule"] == verdicts["over-fitting"] == verdicts["losses"] == "ok"
    assert not {"claims", "positions", "history", "collapse", "divergence"} & set(verdicts)


@pytest.mark.parametrize(
    "schedule", [("plateau", "optim.plateau_patience=0", "optim.lr=1e-7"), ("constant", "optim.warmup=0.3")]
)
def test_the_planned_rates_are_those_of_every_schedule(world, make_tiny, tmp_path, schedule):
    name, *more = schedule
    config = make_tiny("lstm", f"optim.schedule={name}", "optim.epochs=5", "optim.patience=0", *more)
    train(world, config, tmp_path / "run", quiet=True)
    found = RunFolder.read(tmp_path / "run").record()
    assert [e.lr for e in found.epochs] == pytest.approx(list(found.rates), rel=1e-12)
    if name == "plateau":
        assert len(set(found.rates)) > 1, "the plateau was never reached"


def test_before_the_result_and_before_the_first_epoch(run):
    (run / "metrics.json").unlink()
    assert RunFolder.read(run).record().stopped is None
    (run / "history.jsonl").unlink()
    assert RunFolder.read(run).record().epochs == ()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-20], r"history\.jsonl:2: is not JSON"),
        (
            lambda text: text.replace('"cosine"', '"kosine"', 1),
            r"history\.jsonl:1: key 'train\.cosine' is missing",
        ),
        (
            lambda text: text.replace('"lr": ', '"lr": "x', 1).replace(', "gradient', '", "gradient', 1),
            r"1: key 'lr'",
        ),
        (
            lambda text: text.replace('"epoch": 2', '"epoch": 2.5'),
            r"history\.jsonl:2: key 'epoch' is not a count",
        ),
        (lambda text: text + "[1]\n", r"history\.jsonl:3: is not a JSON object"),
        (lambda text: text + "[" * 100_000 + "\n", r"history\.jsonl:3: is not JSON"),
        (lambda text: text.replace('"validation": {', '"validation": 3, "v": {', 1), r":1: key 'validation'"),
    ],
)
def test_a_damaged_line_is_named(run, damage, says):
    path = run / "history.jsonl"
    path.write_text(damage(by_hand(path)))
    with pytest.raises(RunError, match=says):
        RunFolder.read(run).record()


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(RunError, match=r"is not a run \(it has no config\.toml\)"):
        RunFolder.read(tmp_path).record()
    (run / "metrics.json").write_text("[]")
    with pytest.raises(RunError, match=r"metrics\.json: is not a JSON object"):
        RunFolder.read(run).record()
    assert len(read_history(run)) == 2
