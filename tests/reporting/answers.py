"""Material with other answers than its models gave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import gather_rows
from nextvec.reporting.material import Material
from nextvec.vectors import unit


def with_oracle(material: Material, row: str) -> Material:
    """One row answers the truth."""
    answers = material.answers
    assert answers is not None
    assert material.store is not None
    true = unit(gather_rows(material.store.vectors, answers.target))
    own = {**answers.values[row], "cosine": np.ones(len(true), np.float32)}
    units = {**answers.units, row: true.astype(np.float16)}
    return replace(material, answers=replace(answers, units=units, values={**answers.values, row: own}))


def of_windows(material: Material, which: NDArray[Any]) -> Material:
    """Only some of the windows (a mask or indices) were judged."""
    answers = material.answers
    assert answers is not None
    part = replace(
        answers,
        target=answers.target[which],
        last=answers.last[which],
        document=answers.document[which],
        values={row: {k: v[which] for k, v in own.items()} for row, own in answers.values.items()},
        units={row: units[which] for row, units in answers.units.items()},
    )
    return replace(material, answers=part)
