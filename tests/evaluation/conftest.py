"""The known worlds of the self-check, for the judge's own tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nextvec.selfcheck.predictors import Told, look_up
from nextvec.selfcheck.worlds import kalman, make_exam, make_store, noisy, rotation


@pytest.fixture(scope="session")
def worlds() -> SimpleNamespace:
    """Makers of worlds, predictors, exams and stores."""
    return SimpleNamespace(
        rotation=rotation,
        noisy=noisy,
        kalman=kalman,
        Told=Told,
        look_up=look_up,
        exam=make_exam,
        store=make_store,
    )
