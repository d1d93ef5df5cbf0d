"""ReportInputs with other answers than its models gave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import gather_rows
from nextvec.reporting.inputs import ReportInputs
from nextvec.vectors import unit


def with_oracle(inputs: ReportInputs, row: str) -> ReportInputs:
    """One row answers the truth."""
    answers = inputs.answers
    assert answers is not None
    assert inputs.store is not None
    true = unit(gather_rows(inputs.store.vectors, answers.target))
    own = {**answers.values[row], "cosine": np.ones(len(true), np.float32)}
    units = {**answers.units, row: true.astype(np.float16)}
    return replace(inputs, answers=replace(answers, units=units, values={**answers.values, row: own}))


def of_windows(inputs: ReportInputs, which: NDArray[Any]) -> ReportInputs:
    """Only some of the windows (a mask or indices) were evaluated."""
    answers = inputs.answers
    assert answers is not None
    part = replace(
        answers,
        target=answers.target[which],
        last=answers.last[which],
        document=answers.document[which],
        values={row: {k: v[which] for k, v in own.items()} for row, own in answers.values.items()},
        units={row: units[which] for row, units in answers.units.items()},
    )
    return replace(inputs, answers=part)
