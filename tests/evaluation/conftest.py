"""The known worlds of the self-check, for the judge's own tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nextvec.selfcheck.predictors import FunctionPredictor, look_up
from nextvec.selfcheck.worlds import kalman, make_store, memory_evaluation_set, noisy, rotation


@pytest.fixture(scope="session")
def worlds() -> SimpleNamespace:
    """Makers of worlds, predictors, exams and stores."""
    return SimpleNamespace(
        rotation=rotation,
        noisy=noisy,
        kalman=kalman,
        FunctionPredictor=FunctionPredictor,
        look_up=look_up,
        exam=memory_evaluation_set,
        store=make_store,
    )
