"""The study of a sweep: a database in which each trial stands once, whoever works on it.

A worker's trial carries a heartbeat (Optuna's, by the database's clock). Of a worker that died it stops, and
the trial is queued again with the same choices. Optuna has no limit on the trials of several workers, so two
may ask for the last one, or queue the same trial again: the later of the two is surplus, and counts as none.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nextvec.errors import ConfigError, NextvecWarning

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

RESUMES, ERROR, SURPLUS = "resumes", "error", "surplus"
HEARTBEAT_S, GRACE_S = 20, 120
"""How often a worker says that it lives, and after how long a silence its trial is given to another."""
LOOK_S = 2.0
"""How often a worker without a trial looks whether another's has become free."""


def open_database(
    url: str, name: str, direction: Literal["maximize", "minimize"], startup: int, *, heartbeat: bool
) -> Study:
    """The study of this name, made if there is none. Raises ConfigError."""
    import optuna
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    beats: dict[str, Any] = {"heartbeat_interval": HEARTBEAT_S, "grace_period": GRACE_S} if heartbeat else {}
    for last_try in (False, True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = optuna.storages.RDBStorage(url, **beats)
            return optuna.create_study(
                storage=storage,
                study_name=name,
                load_if_exists=True,
                direction=direction,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=1),
            )
        except Exception as e:  # noqa: BLE001 - of SQLAlchemy or a driver: whatever it is, the address is at fault
            # Of two workers that make the tables at the same moment one is told that they are there.
            if not last_try and isinstance(e, (IntegrityError, OperationalError, ProgrammingError)):
                time.sleep(0.5)
                continue
            shown = without_password(url)
            raise ConfigError(
                f"the study's database cannot be opened ({type(e).__name__}: {e})".replace(url, shown),
                where=shown,
                remedy="check --study-url, or give another folder",
            ) from None
    raise AssertionError("the second try returns or raises")


def without_password(url: str) -> str:
    """The address as it may be shown and kept."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "--study-url"


def study_name(identity: Sequence[Any]) -> str:
    """Of a shared database: sweeps of other data, plans or settings have other studies."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    return f"nextvec-{digest[:16]}"


def sampler(seed: int, startup: int, trial: int) -> BaseSampler:
    """Of one trial: workers, and a sweep that goes on, would draw the same choices from the same seed."""
    import optuna

    own = int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=own, n_startup_trials=startup)


def folder_of(trial: Trial | FrozenTrial) -> str:
    """Of a trial that takes up another the same as its own."""
    return str(trial.user_attrs.get(RESUMES, trial.number))


def counted(study: Study) -> list[FrozenTrial]:
    """One trial for each folder, of one that was taken up again the last; none that is surplus."""
    last = {folder_of(t): t for t in study.trials if SURPLUS not in t.user_attrs}
    return list(last.values())


def finished(study: Study) -> list[FrozenTrial]:
    """Of those the ones that came to an end."""
    return [t for t in counted(study) if t.state.is_finished() and not _interrupted(t)]


def _interrupted(trial: FrozenTrial) -> bool:
    """Whether it ended with its worker: what went wrong with the trial itself is noted."""
    return trial.state.name == "FAIL" and ERROR not in trial.user_attrs


def abandon_running(study: Study) -> None:
    """End the trials that are running: to be called where nobody can be at work on any."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def take_up_again(study: Study) -> None:
    """Queue the trials whose worker was stopped or fell silent: the same choices in the same folder."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in filter(_interrupted, counted(study)):
        study.enqueue_trial(trial.params, user_attrs={RESUMES: folder_of(trial)})


def is_surplus(study: Study, trial: Trial, trials: int) -> bool:
    """Whether an earlier trial stands in this one's place, or the sweep has all its trials without it."""
    earlier = [t for t in study.trials if t.number < trial.number and SURPLUS not in t.user_attrs]
    if RESUMES in trial.user_attrs:
        return any(folder_of(t) == folder_of(trial) and not _interrupted(t) for t in earlier)
    return sum(RESUMES not in t.user_attrs for t in earlier) >= trials


def work_on(study: Study, trials: int, objective: Callable[[Trial, int], float]) -> None:
    """Trials until the study has so many that came to an end, those of other workers included.

    Args:
        objective: (trial, how many have ended) -> its value. What it raises ends the work, but for
            `optuna.TrialPruned` and `TrialFailed`; the trial is then queued again by whoever goes on.
    """
    while True:
        take_up_again(study)
        known = counted(study)
        ended = len(finished(study))
        if ended >= trials:
            return
        if len(known) >= trials and not any(t.state.name == "WAITING" for t in known):
            time.sleep(LOOK_S)
            continue
        worker = _Worker(study, trials, objective, ended)
        try:
            study.optimize(worker, n_trials=1, catch=(TrialFailed,))
        except ValueError:  # Optuna's, of a trial that has ended in the study
            if not worker.lost:
                raise
            warnings.warn(
                "a trial was given to another worker, because this one had been silent too long",
                NextvecWarning,
                stacklevel=2,
            )


class TrialFailed(Exception):  # noqa: N818 - one trial of many
    """A trial that could not be trained; its error is noted in the study."""


class _Worker:
    """What Optuna calls with a trial.

    Attributes:
        lost: the trial was given to another worker meanwhile.
    """

    def __init__(
        self, study: Study, trials: int, objective: Callable[[Trial, int], float], ended: int
    ) -> None:
        self.study, self.trials, self.objective, self.ended = study, trials, objective, ended
        self.lost = False

    def __call__(self, trial: Trial) -> float:
        import optuna

        try:
            if is_surplus(self.study, trial, self.trials):
                trial.set_user_attr(SURPLUS, True)
                raise optuna.TrialPruned
            return self.objective(trial, self.ended)
        except optuna.exceptions.UpdateFinishedTrialError:
            self.lost = True
            raise
