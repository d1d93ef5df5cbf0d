"""`nextvec train` and `sweep`, and their flags as layers of configuration: defaults < recipe < file <
objective and task by name < the other flags.

A name on the command line wins over the file, as any flag does, and what is set key by key wins over a name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, NewSplitFile, Quiet, StorePath, flag, names, numbers, output
from nextvec.config import from_dict, given, merge, parse_assignments, read_toml, to_dict
from nextvec.errors import ConfigError, NextvecWarning
from nextvec.text import columns, counted

if TYPE_CHECKING:
    from nextvec.corpus.store import Store
    from nextvec.training.config import TrainConfig
    from nextvec.training.loop import RunResult

DEFAULT_RECIPE = "default"
HORIZONS = ("is not a list of whole numbers", "--horizon", "1 or --horizon 1,2,5")
TRAINING = Path(__file__).parents[1] / "training"


def _stems(*folder: str) -> str:
    """Names of the TOML files in a folder of `nextvec.training`: reading it imports nothing heavy."""
    return ", ".join(sorted(path.stem for path in TRAINING.joinpath(*folder).glob("*.toml")))


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingFlags:
    """What `train`, `matrix` and `sweep` share. What is not given is left to the file, then the recipe."""

    preset: Annotated[str | None, flag("Size of the model: small or brief.")] = None
    recipe: Annotated[
        str | None,
        flag(
            f"Protocol: {_stems('recipes')}; default starts from the best baselines of point and "
            "rank, scratch from nothing, brief is to the letter."
        ),
    ] = None
    config: Annotated[Path | None, flag("A TOML file over the recipe; flags win over it.")] = None
    objective: Annotated[
        str | None, flag(f"What is minimised, over recipe and file: {_stems('layers', 'objectives')}.")
    ] = None
    task: Annotated[
        str | None, flag(f"What is predicted, over recipe and file: {_stems('layers', 'tasks')}.")
    ] = None
    residual: Annotated[
        str | None, flag("Baseline the network corrects: none, mean, last, ema, averages, weights or ridge.")
    ] = None
    head: Annotated[
        str | None, flag("What makes vectors of hidden states: linear, projection, compact, unit or energy.")
    ] = None
    epochs: Annotated[int | None, flag("Passes over the training targets.")] = None
    max_updates: Annotated[int | None, flag("Stop after so many updates.")] = None
    lr: Annotated[float | None, flag("Highest learning rate.")] = None
    batch_size: Annotated[int | None, flag("Slices (or single windows) in a batch.")] = None
    context: Annotated[int | None, flag("Chunks read at most before a target.")] = None
    horizon: Annotated[str | None, flag("How many chunks ahead the target is; several at once as 1,2,5.")] = (
        None
    )
    sources: Annotated[str | None, flag("Train on these sources only, separated by commas.")] = None
    split_file: NewSplitFile = None
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, flag("Where to train.")] = None
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None, flag("Arithmetic of the matrix products.")
    ] = None
    set: Annotated[tuple[str, ...], flag("Any other key, as KEY=VALUE: --set optim.clip=0.5")] = ()

    def layers(self, under: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration file and the flags, as nested dictionaries.

        Args:
            under: what lies under the file; without it the recipe.
        Raises:
            ConfigError: no such file, an unknown recipe, objective or task, a flag that cannot be read, or
                whose number lies outside its bounds.
        """
        file = read_toml(self.config) if self.config is not None else {}
        for key in (key for key, value in file.items() if not isinstance(value, Mapping)):
            remedy = "put it under [model], [data], [loss], [optim] or [runtime]"
            raise ConfigError(f"'{key}' stands in no section", where=self.config, remedy=remedy)
        flags: dict[str, dict[str, Any]] = {
            "model": {"preset": self.preset, "options": {"residual": self.residual, "head": self.head}},
            "data": {
                "context": self.context,
                "min_context": self._min_context(file, under),
                "horizons": list(numbers(self.horizon, int, *HORIZONS)) or None,
                "sources": list(names(self.sources)) or None,
                "split": {"file": None if self.split_file is None else str(self.split_file.resolve())},
            },
            "optim": {
                "epochs": self.epochs,
                "max_updates": self.max_updates,
                "lr": self.lr,
                "batch_size": self.batch_size,
            },
            "runtime": {"device": self.device, "precision": self.precision},
        }
        check_numbers(flags)
        return file, merge(self._named(), given(flags), parse_assignments(self.set))

    def _named(self) -> dict[str, Any]:
        """What the objective and the task of these names are."""
        if self.objective is None and self.task is None:
            return {}
        from nextvec.training.config import read_layer

        objective = {} if self.objective is None else read_layer("objectives", self.objective, "--objective")
        return merge(objective, {} if self.task is None else read_layer("tasks", self.task, "--task"))

    def _min_context(self, file: Mapping[str, Any], under: Mapping[str, Any] | None) -> int | None:
        """--context is both ends where task middle, or what lies under it, trains on windows of one length,
        and where it lies below the lower end there."""
        if self.context is None or self.task == "middle":
            return self.context
        from nextvec.training.config import read_recipe

        own = (under or read_recipe(self.recipe or DEFAULT_RECIPE))["data"]
        both = own["min_context"] == own["context"] or own["min_context"] > self.context
        return self.context if both and "min_context" not in file.get("data", {}) else None


def check_numbers(flags: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError naming the flag whose number lies outside the bounds of its key; each has the name of
    its key, in the section that it is given in."""
    from nextvec.training.config import TrainConfig

    sections = get_type_hints(TrainConfig)
    for section, values in flags.items():
        for f in fields(sections[section]):
            bounds, value = f.metadata.get("bounds"), values.get(f.name)
            if bounds is not None and value is not None and not bounds.hold(value):
                where = f"--{f.name.replace('_', '-')}"
                raise ConfigError(f"is {value}; it must be {bounds}", where=where)


def train(
    store: StorePath,
    *,
    out: Annotated[Path, flag("Folder of the run.")],
    model: Annotated[str | None, flag("An architecture; `nextvec models` lists them.")] = None,
    flags: TrainingFlags | None = None,
    seed: Annotated[int | None, flag("Of the weights, the batches and the dropout.")] = None,
    devices: Annotated[
        int | None, flag("Processes on this machine, one a GPU; they divide each batch.")
    ] = None,
    nodes: Annotated[int | None, flag("Machines; more than one are started by torchrun.")] = None,
    strategy: Annotated[
        Literal["ddp", "fsdp"] | None, flag("Each process holds the model (ddp) or a share of it (fsdp).")
    ] = None,
    init_from: Annotated[
        str | None,
        flag(
            "Start from this run's weights, on any store of its encoder: a folder, a Hub id, or "
            "pretrained, the model that comes with the package. Its configuration is taken where no flag "
            "says otherwise."
        ),
    ] = None,
    resume: Annotated[
        bool, flag("Go on with the run in --out; with --max-updates or --epochs beyond its end.")
    ] = False,
    tensorboard: Annotated[
        bool, flag("Write the history to OUT/tensorboard too (nextvec[tensorboard]).")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train one model. The best model by validation cosine lies in --out, the last in --out/final."""
    from nextvec.checkpoint import CONFIG
    from nextvec.corpus.store import Store
    from nextvec.experiments.evaluating import foretell
    from nextvec.training.checks import check_config
    from nextvec.training.config import read_config
    from nextvec.training.distributed import is_first
    from nextvec.training.history import Scalars
    from nextvec.training.loop import train as run
    from nextvec.training.warm import warm_start

    if init_from is not None and resume:
        message = "a resumed run has its weights already"
        raise ConfigError(message, where="--init-from", remedy="leave --init-from out")
    flags = flags or TrainingFlags()
    how = {"seed": seed, "devices": devices, "nodes": nodes, "strategy": strategy}
    opened = Store.open(store)
    config = _configured(opened, flags, {"model": {"name": model}, "runtime": how}, init_from, out, resume)
    start = None
    if config is not None and not resume:
        check_config(opened, config)
        if is_first() and (few := foretell(opened, config.data)) is not None:
            warnings.warn(few, NextvecWarning, stacklevel=1)
        if init_from is not None:
            start = warm_start(init_from, opened, config)
    with Scalars(out) if tensorboard and is_first() else nullcontext() as scalars:
        result = run(opened, config, out, resume=resume, quiet=quiet, after_epoch=scalars, start=start)
    if is_first():
        print(_describe(result, store, read_config(out / CONFIG)))


def _describe(result: RunResult, store: Path, config: TrainConfig) -> str:
    from nextvec.experiments.evaluating import evaluate_flags

    early, optim = "", config.optim
    if result.stopped == "epochs" and result.updates < optim.max_updates:
        enough = -(-optim.max_updates * result.epochs // result.updates)
        early = (
            f"it ended because its epochs ({result.epochs}) were over, before the {optim.max_updates:,} "
            f"updates asked for: --epochs {enough} lets it make them\n"
        )
    return (
        f"{result.model}: best validation cosine {result.cosine:.4f} in epoch {result.epoch} of "
        f"{result.epochs} ({result.stopped}), {result.parameters:,} parameters, "
        f"{counted(result.updates, 'update')}, {result.seconds:.0f} s\n{early}run: {result.run}\n"
        f"evaluate it beside the baselines: nextvec evaluate {result.run} --store {store} "
        f"--split test{evaluate_flags(config.data)}"
    )


def _configured(
    store: Store, flags: TrainingFlags, own: dict[str, Any], init_from: str | None, out: Path, resume: bool
) -> TrainConfig | None:
    """What is trained; None where a run is resumed as it was."""
    from nextvec.training.config import TrainConfig

    check_numbers(own)
    under = _beneath(store, flags, init_from, out if resume and flags.config is None else None)
    file, set_here = flags.layers(under)
    set_here = merge(set_here, given(own))
    if resume and not set_here and not file and flags.recipe is None:
        return None
    found = merge(under, file, set_here)
    if "name" not in found["model"]:
        raise ConfigError("no model is named", where="--model", remedy="see `nextvec models`")
    return from_dict(TrainConfig, found, where=flags.config or "flags")


def _beneath(
    store: Store, flags: TrainingFlags, init_from: str | None, resumed: Path | None
) -> dict[str, Any]:
    """What lies under file and flags: the recipe; or what a run to start from, or the one that is resumed,
    was trained with. A recipe requested says how to train such a run, and the run only which network."""
    from nextvec.checkpoint import CONFIG
    from nextvec.training.config import read_config, read_recipe
    from nextvec.training.warm import inherited

    recipe = read_recipe(flags.recipe or DEFAULT_RECIPE)
    if resumed is not None and (resumed / CONFIG).is_file():
        held = to_dict(read_config(resumed / CONFIG))
        network = {key: held["model"][key] for key in ("name", "preset")}
        return held if flags.recipe is None else merge(recipe, {"model": network})
    if init_from is None:
        return recipe
    held = inherited(init_from, store)
    if flags.recipe is None and "optim" in held:
        return held
    recipe["model"].pop("options", None)  # the network has its own
    return merge(recipe, {"model": held["model"]})


def sweep(
    store: StorePath,
    *,
    model: Annotated[str, flag("An architecture, several separated by commas, or all.")],
    out: Annotated[Path, flag("Folder of the sweep; an interrupted one goes on.")],
    trials: Annotated[int, flag("Trials in all, those of earlier calls included.")] = 20,
    space: Annotated[
        str, flag("What is varied beside each model's own space: shared, or hundred (the brief's plan).")
    ] = "shared",
    metric: Annotated[Literal["cosine", "loss"], flag("The validation figure to tune.")] = "cosine",
    seed: Annotated[int, flag("Of the sampler and of every run.")] = 0,
    startup: Annotated[int, flag("Trials drawn at random before anything is learned or pruned.")] = 10,
    study_url: Annotated[
        str | None, flag("Database of the study, for many workers; default: a SQLite file in --out.")
    ] = None,
    training: TrainingFlags | None = None,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Tune models on validation: many short runs, the bad ones stopped early.

    The test documents are not touched. Train the result with `nextvec train --config OUT/best/MODEL.toml`.
    """
    from nextvec.corpus.store import Store
    from nextvec.experiments.sweep import SweepPlan, named_space, run_sweep
    from nextvec.models import registry
    from nextvec.training.config import make_config

    training = training or TrainingFlags()
    chosen = registry.names() if model == "all" else names(model)
    for name in chosen:
        registry.get(name)
    opened = Store.open(store)
    try:
        plan = SweepPlan(str(opened.path.resolve()), tuple(chosen), trials, seed, metric, startup)
    except ValueError as e:
        raise ConfigError(str(e), where="nextvec sweep", remedy="correct the flag") from None
    file, set_here = training.layers()

    def configure(name: str, picked: dict[str, Any]) -> Any:
        own = {"model": {"name": name}, "optim": {"select": metric}, "runtime": {"seed": seed}}
        layers = (picked, file, set_here, own)
        return make_config(training.recipe or DEFAULT_RECIPE, *layers, where=training.config or "flags")

    figures = run_sweep(opened, plan, configure, out, url=study_url, space=named_space(space), quiet=quiet)
    output(describe_sweep(figures, out), figures, json)


def describe_sweep(figures: dict[str, Any], out: Path) -> str:
    """The sweep in a table: how much tuning each model was given, and its best trial."""
    header = ["model", "trials", "complete", "pruned", "failed", "seconds", "best", "trial", "epoch"]
    rows, best_of = [], []
    for row in figures["models"]:
        best = row["best"] or {"value": None, "trial": None, "epoch": None}
        value = "-" if best["value"] is None else f"{best['value']:.4f}"
        counts = [row[key] for key in ("trials", "complete", "pruned", "fail")]
        cells = [*map(str, counts), f"{row['seconds']:.0f}", value, str(best["trial"]), str(best["epoch"])]
        rows.append([row["model"], *cells])
        if row["best"] is not None:
            picked = sorted((k, v) for k, v in row["best"]["chosen"].items() if k != "model")
            notes = (f"{k} = {f'{v:.3g}' if isinstance(v, float) else v}" for k, v in picked)
            command = f"  nextvec train STORE --config {out}/best/{row['model']}.toml --out RUN"
            best_of += ["", f"{row['model']}: {', '.join(notes)}", command]
    title = f"{figures['metric']}, tuned on the validation documents alone"
    lines = [title, "", columns(header, rows), *best_of]
    if figures["importance"]:
        parts = [f"{key} {value:.2f}" for key, value in figures["importance"].items()]
        lines += ["", f"What mattered (share of the spread between trials): {', '.join(parts)}"]
    return "\n".join(lines)
