"""Tuning by Optuna: many short runs, the bad ones stopped early, all of it evaluated on validation alone.

A sweep is a folder: `sweep.toml` (the plan), `study.db` (every trial), `trials/<number>/` (a run each),
`sweep.json` (how much tuning each model was given and what came of it) and `best/<model>.toml`, which
`nextvec train --config` takes. Of a database that several processes or machines reach, each that is given the
same command works on one study (`nextvec.experiments.study`), in a folder of its own or in one they share.
"""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nextvec.checkpoint import CONFIG
from nextvec.config import flatten, from_dict, merge, nested, read_toml, to_dict, write_toml
from nextvec.corpus.store import Store
from nextvec.disk import locked, write_json
from nextvec.errors import BusyError, ConfigError, DiskError, NextvecError, NextvecWarning, RunError
from nextvec.experiments import study as shared
from nextvec.experiments.evaluating import check_test_split, foretell, wider
from nextvec.experiments.plan import held_plan
from nextvec.experiments.study import ERROR, finished, folder_of
from nextvec.interrupt import TrainingInterrupted
from nextvec.models.registry import SEARCH
from nextvec.training.checks import check_config
from nextvec.training.config import TrainConfig, read_layer
from nextvec.training.loop import train
from nextvec.training.session import FREE_TO_CHANGE

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

# What a sweep varies: a TOML file beside each architecture, and what all have in common.
#
# A file has a table `space`: a key of the configuration -> either `choices = [...]` or `low`, `high` and
# `log`. What an architecture's file says of a key wins over the shared space.

SHARED = Path(__file__).parent / "search"
"""Spaces that are not of one architecture: `shared` (every sweep's) and `hundred` (the brief's plan)."""
OBJECTIVE = "objective"
"""A key that is not of the configuration: which named objective."""


@dataclass(frozen=True)
class Choice:
    """The values of one key: `choices`, or all from `low` to `high`; evenly in the logarithm if `log`."""

    choices: tuple[Any, ...] = ()
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False

    def __post_init__(self) -> None:
        ranged = self.low is not None and self.high is not None
        if bool(self.choices) == ranged or (self.low is None) != (self.high is None):
            raise ValueError("give either choices, or low and high")
        if ranged and not (self.low < self.high and (self.low > 0 or not self.log)):  # type: ignore[operator]
            raise ValueError(f"low {self.low} and high {self.high} are not a range")


Space = dict[str, Choice]


@dataclass(frozen=True)
class SpaceFile:
    """A search space as it lies on disk."""

    space: dict[str, Any] = field(default_factory=dict)


def read_space(path: Path) -> Space:
    """A search space. Raises ConfigError naming file and key."""
    held = from_dict(SpaceFile, read_toml(path), where=path).space
    return {key: from_dict(Choice, value, where=f"{path}: {key}") for key, value in held.items()}


def space_of(model: str, shared: Space | None = None) -> Space:
    """What is varied of a model: the shared space with its own over it. Raises ConfigError."""
    own = SEARCH / f"{model}.toml"
    if not own.is_file():
        raise ConfigError(f"{model} has no search space", where=own, remedy="write one beside the others")
    return {**(named_space("shared") if shared is None else shared), **read_space(own)}


def named_space(name: str) -> Space:
    """A space that comes with nextvec. Raises ConfigError for an unknown name."""
    known = sorted(path.stem for path in SHARED.glob("*.toml"))
    if name not in known:
        message = f"no search space '{name}'"
        raise ConfigError(message, where="--space", remedy=f"choose one of: {', '.join(known)}")
    return read_space(SHARED / f"{name}.toml")


def assignments(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and their values as a layer of configuration; `objective` is a named layer."""
    named = read_layer("objectives", str(chosen[OBJECTIVE])) if OBJECTIVE in chosen else {}
    return merge(named, nested({key: value for key, value in chosen.items() if key != OBJECTIVE}))


PLAN, TABLE, DATABASE, BEST = "sweep.toml", "sweep.json", "study.db", "best"
MODEL, SECONDS, EPOCH, CHOSEN, WORKER = "model", "seconds", "epoch", "config", "worker"
MAX_TRIALS = 100_000
Configure = Callable[[str, dict[str, Any]], TrainConfig]
"""A model and what a trial chose, as nested dictionaries -> the configuration."""


@dataclass(frozen=True)
class SweepPlan:
    """What is tuned, and for how long.

    Attributes:
        store: where the vectors lie.
        models: one, or several among which each trial chooses.
        trials: in all, those of earlier calls included.
        seed: of the sampler, and of every trial's run.
        metric: the validation figure that is tuned: "cosine" (higher) or "loss" (lower).
        startup: trials drawn at random before the sampler and the pruner learn from them.
    """

    store: str
    models: tuple[str, ...]
    trials: int
    seed: int = 0
    metric: str = "cosine"
    startup: int = 10

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) != len(self.models):
            raise ValueError("name at least one model, and every model once")
        if not 1 <= self.trials <= MAX_TRIALS or self.startup < 1 or self.seed < 0:
            raise ValueError(f"trials must be 1 to {MAX_TRIALS:,}, startup at least 1, seed at least 0")
        if self.metric not in ("cosine", "loss"):
            raise ValueError(f"metric is '{self.metric}'; choose cosine or loss")

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.metric == "cosine" else "minimize"


def run_sweep(
    store: Store,
    plan: SweepPlan,
    configure: Configure,
    out: Path,
    *,
    url: str | None = None,
    space: Space | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run trials until the study has `plan.trials`, and write what came of it.

    Args:
        url: of the study's database, such as postgresql://...; every call with the same plan, data and
            settings works on the one study there, and returns when all trials of all have ended. None is a
            SQLite file in `out`, for this process alone.
        space: what is varied beside the models' own spaces; None takes `spaces.shared`.
    Returns: the JSON of `sweep.json`.
    Raises:
        ConfigError: Optuna is not installed, or its database cannot be reached.
        ConfigError, SplitError, WindowError, ModelError: no model could be trained whatever is chosen.
            Nothing is written then.
        EvaluationError, SplitError, WindowError: nothing that is trained could be evaluated on the test
            split. Nothing is written then.
        BusyError: another process is writing `out` (without `url`), or one of its trials. DiskError: it
            cannot be written to.
        RunError: `out` holds another sweep, or no trial could be trained.
        TrainingInterrupted: everything is saved; call again to go on.
    """
    spaces = {model: space_of(model, space) for model in plan.models}
    configs = _check(store, plan, configure)
    with locked(out) if url is None else nullcontext():
        study = open_study(out, plan, url, "nextvec" if url is None else _name(store, plan, configs, spaces))
        if url is None:  # we hold the folder
            shared.abandon_running(study)

        def objective(trial: Trial, ended: int) -> float:
            study.sampler = shared.sampler(plan.seed, plan.startup, trial.number)
            if not quiet:
                sys.stderr.write(f"[{ended + 1}/{plan.trials}] trial {trial.number}\n")
            return run_trial(store, trial, plan, spaces, configure, out)

        shared.work_on(study, plan.trials, objective)
        return conclude(study, plan, url, out)


def _name(store: Store, plan: SweepPlan, configs: dict[str, TrainConfig], spaces: dict[str, Space]) -> str:
    """Of the study of this sweep: the same wherever the same vectors lie and whatever computes there."""
    flat = {model: flatten(to_dict(config)) for model, config in configs.items()}
    free = [key for each in flat.values() for key in each if key.startswith("runtime.")] + [*FREE_TO_CHANGE]
    settings = {m: {k: v for k, v in each.items() if k not in free} for m, each in flat.items()}
    vectors = [shard["vectors_sha256"] for shard in store.info["shards"]]
    ranges = {model: {key: asdict(c) for key, c in space.items()} for model, space in spaces.items()}
    plan_fields = {key: value for key, value in asdict(plan).items() if key not in ("store", "trials")}
    return shared.study_name([store.fingerprint, vectors, plan_fields, settings, ranges])


def conclude(study: Study, plan: SweepPlan, url: str | None, out: Path) -> dict[str, Any]:
    """Write `sweep.json`, and the best configurations. Raises RunError where no trial was trained."""
    figures = summary(study, plan, url)
    if not any(model["complete"] for model in figures["models"]):
        errors = [trial["error"] for trial in figures["trials"] if trial["error"]]
        raise RunError(f"no trial could be trained to its end; the first: {errors[0]}", where=out)
    write_json(out / TABLE, figures, sealed=True)
    for row in figures["models"]:
        if row["best"] is not None:
            found = study.trials[row["best"]["trial"]].user_attrs[CHOSEN]
            write_toml(out / BEST / f"{row['model']}.toml", from_dict(TrainConfig, found, where=out))
    return figures


def open_study(out: Path, plan: SweepPlan, url: str | None, name: str) -> Study:
    """The study of the folder or the database, made if there is none. Raises ConfigError, RunError."""
    try:
        import optuna  # noqa: F401 - whether it is there
    except ImportError:
        message = "tuning needs Optuna"
        raise ConfigError(message, where="nextvec sweep", remedy="pip install 'nextvec[sweep]'") from None
    held = held_plan(out, PLAN, SweepPlan, "sweep")
    if held is not None and replace(held, trials=plan.trials) != plan:
        raise RunError("holds another sweep", where=out, remedy="give another folder with --out")
    if url is None:  # before the database: what was killed here is known for a sweep by its plan
        write_toml(out / PLAN, plan)
    place = url or f"sqlite:///{(out / DATABASE).resolve()}"
    study = shared.open_database(place, name, plan.direction, plan.startup, heartbeat=url is not None)
    write_toml(out / PLAN, plan)
    return study


def _check(store: Store, plan: SweepPlan, configure: Configure) -> dict[str, TrainConfig]:
    """Raise, before anything is written, what would stop every trial of every model, or the evaluation of
    what comes of them; warn of a test split that says little. Of test documents no prediction is made.

    Returns: the configurations of the models that can be trained, nothing varied."""
    wrong: list[NextvecError] = []
    fine: dict[str, TrainConfig] = {}
    for model in plan.models:
        try:
            config = configure(model, {})
            check_config(store, config)
            _check_evaluation(store, config)
            fine[model] = config
        except NextvecError as e:
            wrong.append(e)
    if not fine:
        raise wrong[0]
    if (few := foretell(store, next(iter(fine.values())).data)) is not None:
        warnings.warn(few, NextvecWarning, stacklevel=2)
    return fine


def _check_evaluation(store: Store, config: TrainConfig) -> None:
    try:  # windows that stand in training are no reason: `evaluate --leak-limit` goes on without them
        check_test_split(store, config.data, leak_limit=1.0)
    except NextvecError as e:
        e.message = f"the best model could not be evaluated afterwards: {e.message}"
        e.remedy = wider(config.data.split)
        raise


def run_trial(
    store: Store, trial: Trial, plan: SweepPlan, spaces: dict[str, Space], configure: Configure, out: Path
) -> float:
    """Train one trial. Returns what is tuned; raises optuna.TrialPruned, TrialFailed, TrainingInterrupted,
    DiskError and BusyError."""
    import optuna

    trial.set_user_attr(WORKER, f"{platform.node()}:{os.getpid()}")
    model = plan.models[0]
    if len(plan.models) > 1:
        model = str(trial.suggest_categorical("model", plan.models))
    # A key has a range of its own in every architecture's space, so the sampler is given the architecture.
    chosen = {key: _suggest(trial, f"{model}: {key}", choice) for key, choice in spaces[model].items()}
    trial.set_user_attr(MODEL, model)
    folder = out / "trials" / folder_of(trial)

    def after_epoch(line: dict[str, Any]) -> None:
        trial.report(line["validation"][plan.metric], line["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {line['epoch']}")

    try:
        config = configure(model, assignments(chosen))
        trial.set_user_attr(CHOSEN, to_dict(config))
        resume = (folder / CONFIG).is_file()
        result = train(store, config, folder, resume=resume, quiet=True, after_epoch=after_epoch)
    except TrainingInterrupted as stop:
        stop.remedy = "give the same command again to continue"
        raise
    except (BusyError, DiskError):  # of the folder, not of the choices: the trial is taken up again
        raise
    except NextvecError as e:
        trial.set_user_attr(ERROR, str(e))
        raise shared.TrialFailed from e
    trial.set_user_attr(SECONDS, result.seconds)
    trial.set_user_attr(EPOCH, result.epoch)
    return result.cosine if plan.metric == "cosine" else result.loss


def _suggest(trial: Trial, name: str, choice: Choice) -> Any:
    if choice.choices:
        return trial.suggest_categorical(name, choice.choices)
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return trial.suggest_int(name, choice.low, choice.high, log=choice.log)
    assert choice.low is not None
    assert choice.high is not None
    return trial.suggest_float(name, choice.low, choice.high, log=choice.log)


def summary(study: Study, plan: SweepPlan, url: str | None) -> dict[str, Any]:
    """How much tuning each model was given, and its best trial. JSON-ready."""
    sign = 1 if plan.metric == "cosine" else -1
    ended = finished(study)
    by_model = {name: [t for t in ended if t.user_attrs.get(MODEL) == name] for name in plan.models}
    models = [_of_model(name, trials, sign) for name, trials in by_model.items()]
    known = [m for m in models if m["best"] is not None]
    known.sort(key=lambda m: -sign * m["best"]["value"])
    return {
        "plan": asdict(plan),
        "study": DATABASE if url is None else shared.without_password(url),
        "metric": f"validation {plan.metric}",
        "models": [*known, *(m for m in models if m["best"] is None)],
        "trials": [_of_trial(t) for t in ended],
        "importance": importance(study),
    }


def _of_model(name: str, trials: Sequence[FrozenTrial], sign: int) -> dict[str, Any]:
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    best = None
    if complete:
        best = _of_trial(sorted(complete, key=lambda t: sign * float(t.value or 0.0))[-1])
    seconds = [t.duration.total_seconds() for t in trials if t.duration is not None]
    return {
        "model": name,
        "trials": len(trials),
        **{s: sum(t.state.name == s.upper() for t in trials) for s in ("complete", "pruned", "fail")},
        "seconds": sum(seconds),
        "best": best,
    }


def _of_trial(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "model": trial.user_attrs.get(MODEL),
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state.name == "COMPLETE" else None,
        "folder": f"trials/{folder_of(trial)}",
        "worker": trial.user_attrs.get(WORKER),
        "epoch": trial.user_attrs.get(EPOCH),
        "error": trial.user_attrs.get(ERROR),
        "chosen": {key.partition(": ")[2] or key: value for key, value in trial.params.items()},
    }


def importance(study: Study) -> dict[str, float]:
    """The share of the spread of the results that each choice explains, most first (PED-ANOVA, Watanabe et
    al. 2023); empty where it is not known. A key that several models have counts for all of them."""
    import optuna

    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    if len(complete) < 4 or len({t.value for t in complete}) < 2:
        return {}
    if not set.intersection(*(set(t.params) for t in complete)):
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():  # one for each key of a model that had a trial or two
        warnings.filterwarnings("ignore", message="Some regimes for parameter")
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    shares: dict[str, float] = {}
    for key, value in found.items():
        name = key.partition(": ")[2] or key
        shares[name] = shares.get(name, 0.0) + float(value)
    return dict(sorted(shares.items(), key=lambda share: -share[1]))
