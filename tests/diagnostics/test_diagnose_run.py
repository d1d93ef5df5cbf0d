"""The diagnosis of runs: a history of a healthy run, and the same with one fault at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nextvec.diagnostics.run import diagnose_run
from nextvec.training.history import Epoch, RunRecord

Lines = list[dict[str, Any]]


def lines(count: int = 6) -> Lines:
    """What a healthy run writes: losses fall, the cosine rises, the terms have gradients of one size."""
    made = []
    for i in range(1, count + 1):
        loss, cosine = 1.0 / i + 0.5, 0.6 - 0.3 / i
        terms = {"loss.mse": loss, "loss.cosine": 1 - cosine, "loss.moments": 0.2 / i}
        made.append(
            {
                "epoch": i,
                "update": 100 * i,
                "train": {"loss": loss, "cosine": cosine - 0.01, **terms},
                "validation": {
                    "loss": loss + 0.05,
                    "cosine": cosine,
                    **terms,
                    "variance_ratio": 0.3,
                    "std_ratio": 0.6,
                    "std_above_0.01": 0.99,
                    "std_above_0.01_encoder": 0.99,
                },
                "lr": 0.001 / i,
                "gradient_norm": 0.5,
                "term_gradient_norms": {"mse": 0.4, "cosine": 0.1, "moments": 0.05},
                "seconds": 10.0 * i,
                "train_seconds": 8.0,
                "positions": 4000,
            }
        )
    return made


def record(found: Lines, **changes: Any) -> RunRecord:
    epochs = tuple(Epoch.from_json(line, f"history.jsonl:{i}") for i, line in enumerate(found, 1))
    best = max(epochs, key=lambda e: e.validation["cosine"]) if epochs else None
    made = RunRecord(
        run="run",
        model="lstm",
        epochs=epochs,
        rates=tuple(0.001 / i for i in range(1, len(found) + 1)),
        planned_epochs=20,
        schedule="cosine",
        clip=1.0,
        targets=4000,
        stopped="patience",
        best_epoch=best and best.epoch,
        best_cosine=best and best.validation["cosine"],
        device="cpu",
        precision="float32",
    )
    return replace(made, **changes)


def flagged(found: RunRecord) -> dict[str, str]:
    """Name -> level of what is a warning or red."""
    return {v.name: v.level for v in diagnose_run(found).verdicts if v.level in ("warning", "red")}


def test_a_healthy_history_has_no_flag():
    found = diagnose_run(record(lines()))
    assert flagged(record(lines())) == {}
    assert found.best_epoch == 6
    assert found.seconds_to_best == 60
    assert found.positions_per_second == 500
    output = {v.name: v.text for v in found.verdicts}
    assert output["losses"].startswith("training loss 1.5 to 0.6667, mse 1.5 to 0.6667, cosine")
    assert "8 times that of loss.moments" in output["gradient ratio"]
    assert output["moment loss"] == "moment loss falls: 0.2 to 0.03333"
    assert "std above .01 in 99.0 % of dimensions, the encoder's own in 99.0 %" in output["std"]
    assert json.dumps(found.to_json(), allow_nan=False)


def change(key: str, *values: Any, at: int = 3) -> Callable[[Lines], None]:
    """Set "validation.cosine" and the like in the lines from number `at` on."""

    def doctor(found: Lines) -> None:
        *path, last = key.split("/")
        for line, value in zip(found[at - 1 :], values, strict=False):
            for part in path:
                line = line[part]
            line[last] = value

    return doctor


def scale(key: str, factor: float) -> Callable[[Lines], None]:
    def doctor(found: Lines) -> None:
        *path, last = key.split("/")
        for line in found:
            for part in path:
                line = line[part]
            line[last] *= factor

    return doctor


def rising(part: str) -> Callable[[Lines], None]:
    def doctor(found: Lines) -> None:
        for i, line in enumerate(found):
            line[part]["loss"] = 1 + i / 10

    return doctor


def over_fitted(found: Lines) -> None:
    for i, line in enumerate(found[3:], 1):
        line["train"]["cosine"] += 0.03 * i
        line["validation"]["cosine"] -= 0.02 * i


@pytest.mark.parametrize(
    ("doctor", "name", "level"),
    [
        (scale("term_gradient_norms/mse", 700), "gradient ratio", "warning"),
        (change("term_gradient_norms/moments", 0.0), "gradient ratio", "warning"),
        (change("gradient_norm", 50.0), "gradient burst", "warning"),
        (change("validation/cosine", 0.34), "collapse", "red"),
        (scale("validation/variance_ratio", 0.01), "variance", "red"),
        (scale("validation/variance_ratio", 0.2), "variance", "warning"),
        (scale("validation/variance_ratio", 6), "variance", "warning"),
        (scale("validation/std_above_0.01", 0.8), "std", "warning"),
        (rising("train"), "losses", "red"),
        (change("train/loss", 9.0), "divergence", "red"),
        (change("validation/loss", 9.0), "divergence", "red"),
        (change("validation/loss", math.nan), "divergence", "red"),
        (change("gradient_norm", math.inf), "divergence", "red"),
        (change("train/loss.moments", 0.3, at=6), "moment loss", "warning"),
        (over_fitted, "over-fitting", "warning"),
        (change("train/cosine", 0.75, at=6), "over-fitting", "warning"),
        (change("lr", 0.001), "schedule", "red"),
        (change("positions", 4100), "positions", "red"),
        (change("epoch", 7), "history", "red"),
        (change("update", 150), "history", "red"),
    ],
)
def test_each_fault_is_flagged_by_its_name(doctor, name, level):
    found = lines()
    doctor(found)
    assert flagged(record(found)) == {name: level}


def test_a_collapse_over_several_epochs_is_one_too():
    found = lines()
    change("validation/cosine", 0.5, 0.44, 0.41, 0.38)(found)
    assert flagged(record(found))["collapse"] == "red"


def test_a_claim_that_the_history_does_not_bear_out():
    assert flagged(record(lines(), best_cosine=0.62)) == {"claims": "red"}
    assert flagged(record(lines(), best_epoch=2)) == {"claims": "red"}


def notes(found: RunRecord) -> set[str]:
    return {v.name for v in diagnose_run(found).verdicts if v.level == "note"}


def test_an_interrupted_run_one_epoch_and_none():
    unfinished = record(lines(3), stopped=None, best_epoch=None, best_cosine=None)
    assert flagged(unfinished) == {}
    assert "unfinished" in notes(unfinished)
    one = record(lines(1))
    assert flagged(one) == {}
    assert "losses" in notes(one)  # no trend can be told
    none = diagnose_run(record([], best_epoch=None, best_cosine=None))
    assert [v.name for v in none.verdicts] == ["unfinished"]
    assert none.best_epoch is None


def test_what_is_worth_a_note():
    assert "still improving" in notes(record(lines(), stopped="epochs"))
    assert "schedule" in notes(record(lines(), rates=None))
    assert "clipping" in notes(record(lines(), clip=0.1))
    slow = lines()
    slow[2]["train_seconds"] = 80.0
    assert "slow epoch" in notes(record(slow))
    cut = lines()
    cut[-1]["positions"] = 1500
    assert flagged(record(cut, stopped="max_updates")) == {}


def test_one_term_needs_no_balance():
    found = lines()
    for line in found:
        line["term_gradient_norms"] = {"mse": 0.4}
        for part in ("train", "validation"):
            line[part] = {k: v for k, v in line[part].items() if k not in ("loss.cosine", "loss.moments")}
    verdicts = {v.name: v.text for v in diagnose_run(record(found)).verdicts}
    assert "gradient ratio" not in verdicts
    assert verdicts["losses"] == "training loss 1.5 to 0.6667"
