"""One study, several workers: no trial is lost or counted twice, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from nextvec.config import from_dict, read_toml
from nextvec.corpus.store import Store
from nextvec.errors import NextvecWarning
from nextvec.experiments import study as shared
from nextvec.experiments.study import open_database, sampler, without_password, work_on
from nextvec.training.config import TrainConfig

PATIENCE_S = 1800.0  # only a process that hangs takes so long


def age(url: str, trial: optuna.trial.FrozenTrial) -> None:
    """As if the trial's worker had been silent for a day."""
    with sqlalchemy.create_engine(url).begin() as connection:
        table = sqlalchemy.Table("trial_heartbeats", sqlalchemy.MetaData(), autoload_with=connection)
        old = sqlalchemy.func.now() - sqlalchemy.text("interval '1 day'")
        if connection.dialect.name == "sqlite":
            old = sqlalchemy.text("datetime('now', '-1 day')")
        connection.execute(table.update().where(table.c.trial_id == trial._trial_id).values(heartbeat=old))


def states(study: optuna.Study) -> list[str]:
    return [t.state.name.lower() for t in study.trials]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


def opened(url: str) -> optuna.Study:
    return open_database(url, "s", "maximize", 10, heartbeat=True)


def test_a_trial_whose_worker_is_silent_is_redone_with_the_same_choices(url: str) -> None:
    study = opened(url)
    drawn: list[float] = []

    def dies(trial: optuna.Trial, ended: int) -> float:
        drawn.append(trial.suggest_float("x", 0, 1))
        raise KeyboardInterrupt

    def lives(trial: optuna.Trial, ended: int) -> float:
        drawn.append(trial.suggest_float("x", 0, 1))
        return drawn[-1]

    with pytest.warns(UserWarning, match="Study.optimize"):
        silent = study.ask()
    drawn.append(silent.suggest_float("x", 0, 1))
    study._storage.record_heartbeat(silent._trial_id)  # type: ignore[attr-defined]
    age(url, study.trials[0])
    with pytest.raises(KeyboardInterrupt):  # the one that takes it up is stopped too
        work_on(study, 3, dies)
    work_on(opened(url), 3, lives)
    assert states(study) == ["fail", "fail", "complete", "complete", "complete"]
    assert drawn[0] == drawn[1] == drawn[2]
    assert [shared.folder_of(t) for t in shared.finished(study)] == ["0", "3", "4"]


def test_what_two_workers_ask_for_at_once_is_trained_once(url: str) -> None:
    study, other = opened(url), opened(url)
    trained: list[int] = []

    def meanwhile(trial: optuna.Trial, ended: int) -> float:
        if (
            not trained
        ):  # while the first of three is trained, another worker does all that is left, and one more
            other.optimize(lambda t: 0.0, n_trials=2)
            other.optimize(shared._Worker(other, 3, lambda t, n: pytest.fail("it trained"), 0), n_trials=1)
        trained.append(trial.number)
        return 0.0

    work_on(study, 3, meanwhile)
    assert trained == [0]
    assert states(study) == ["complete"] * 3 + ["pruned"]
    assert [t.number for t in shared.finished(study)] == [0, 1, 2]
    work_on(study, 4, meanwhile)  # what was surplus is not one of those asked for later
    assert trained == [0, 4]


def test_a_worker_that_was_taken_for_dead_lets_go(url: str) -> None:
    study, other = opened(url), opened(url)
    trained: list[int] = []

    def slow(trial: optuna.Trial, ended: int) -> float:
        trained.append(trial.number)
        if len(trained) == 1:
            age(url, study.trials[0])
            work_on(other, 1, lambda t, n: 2.0)
        trial.set_user_attr("seconds", 1.0)
        return 1.0

    with pytest.warns(NextvecWarning, match="given to another worker"):
        work_on(study, 1, slow)
    assert [t.value for t in shared.finished(study)] == [2.0]
    assert trained == [0]


def test_no_two_trials_draw_the_same(url: str) -> None:
    """Neither of two workers with one seed, nor of a sweep that goes on."""
    drawn = []
    for number in range(4):
        study = opened(url)
        study.sampler = sampler(0, 10, number)
        study.optimize(lambda t: drawn.append(t.suggest_float("x", 0, 1)) or 0.0, n_trials=1)
    assert len(set(drawn)) == 4


def test_no_password_is_kept_or_shown() -> None:
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert without_password("secret") == "--study-url"


def start(world: Store, out: Path, url: str, seed: int) -> subprocess.Popen[str]:
    flags = [
        f"--seed={seed}",
        "--device=cpu",
        "--precision=float32",
        "--epochs=40",
        "--batch-size=4",
        "--set=runtime.threads=1",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "nextvec", "sweep", str(world.path), "--model=mlp", "--trials=5",
         "--startup=5", "--set=optim.patience=0", "--out", str(out), "--study-url", url, "--quiet", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(condition: Callable[[], Any], *processes: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "folders"), [(0, ("victim", "survivor")), (1, ("survivor", "survivor"))])
def test_of_two_workers_on_postgresql_one_is_killed(
    world: Store, tmp_path: Path, database: str, seed: int, folders: tuple[str, str]
) -> None:
    """Each in a folder of its own, or both in one."""
    before = _names(database)
    victim, survivor = (start(world, tmp_path / name, database, seed) for name in folders)
    try:
        (name,) = wait_for(lambda: _names(database) - before, victim, survivor)
        study = optuna.load_study(study_name=name, storage=database)

        def caught() -> Any:
            """A trial of the victim in its epochs, which then stands still."""
            for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
                if (
                    trial.user_attrs.get("worker", "").endswith(f":{victim.pid}")
                    and trial.intermediate_values
                ):
                    os.kill(victim.pid, signal.SIGSTOP)
                    if study.trials[trial.number].state.name == "RUNNING":
                        return trial
                    os.kill(victim.pid, signal.SIGCONT)
            return None

        killed = wait_for(caught, victim)
        victim.kill()
        wait_for(lambda: _beats(database, killed), survivor)
        age(database, killed)
        out, output = survivor.communicate(timeout=PATIENCE_S)
        assert survivor.returncode == 0, output
    finally:
        victim.kill()
        survivor.kill()
        victim.communicate()
    assert "tuned on the validation documents alone" in out
    counted = shared.counted(study)
    assert [t.state.name for t in counted if t.state.name not in ("COMPLETE", "PRUNED")] == []
    assert len({shared.folder_of(t) for t in counted}) == len(counted) == 5
    (again,) = [t for t in counted if t.user_attrs.get(shared.RESUMES) == str(killed.number)]
    assert again.params == killed.params
    assert study.trials[killed.number].state.name == "FAIL"
    assert len({tuple(t.params.values()) for t in counted}) == 5
    best = from_dict(TrainConfig, read_toml(tmp_path / "survivor" / "best" / "mlp.toml"), where="best")
    assert best.optim.lr == pytest.approx(study.best_trial.params["mlp: optim.lr"])


def _names(url: str) -> set[str]:
    """Of the studies; none before there are tables."""
    engine = sqlalchemy.create_engine(url)
    if not sqlalchemy.inspect(engine).has_table("studies"):
        return set()
    with engine.connect() as connection:
        return set(connection.execute(sqlalchemy.text("SELECT study_name FROM studies")).scalars())


def _beats(url: str, trial: optuna.trial.FrozenTrial) -> bool:
    with sqlalchemy.create_engine(url).connect() as connection:
        found = connection.execute(
            sqlalchemy.text("SELECT count(*) FROM trial_heartbeats WHERE trial_id = :id"),
            {"id": trial._trial_id},
        ).scalar()
    return bool(found)
