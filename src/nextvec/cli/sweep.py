"""`nextvec sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, StorePath, names, output
from nextvec.cli.configure import DEFAULT_RECIPE, TrainingFlags
from nextvec.errors import ConfigError
from nextvec.text import columns


def sweep(
    store: StorePath,
    *,
    model: Annotated[str, Parameter(help="An architecture, several separated by commas, or all.")],
    out: Annotated[Path, Parameter(help="Folder of the sweep; an interrupted one goes on.")],
    trials: Annotated[int, Parameter(help="Trials in all, those of earlier calls included.")] = 20,
    space: Annotated[
        str,
        Parameter(
            help="What is varied beside each model's own space: shared, or hundred (the brief's plan)."
        ),
    ] = "shared",
    metric: Annotated[Literal["cosine", "loss"], Parameter(help="The validation figure to tune.")] = "cosine",
    seed: Annotated[int, Parameter(help="Of the sampler and of every run.")] = 0,
    startup: Annotated[
        int, Parameter(help="Trials drawn at random before anything is learned or pruned.")
    ] = 10,
    study_url: Annotated[
        str | None,
        Parameter(help="Database of the study, for many workers; default: a SQLite file in --out."),
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
    file, given = training.layers()

    def configure(name: str, picked: dict[str, Any]) -> Any:
        own = {"model": {"name": name}, "optim": {"select": metric}, "runtime": {"seed": seed}}
        layers = (picked, file, given, own)
        return make_config(training.recipe or DEFAULT_RECIPE, *layers, where=training.config or "flags")

    figures = run_sweep(opened, plan, configure, out, url=study_url, space=named_space(space), quiet=quiet)
    output(show(figures, out), figures, json)


def show(figures: dict[str, Any], out: Path) -> str:
    """The sweep in a table: how much tuning each model was given, and its best trial."""
    header = ["model", "trials", "complete", "pruned", "failed", "seconds", "best", "trial", "epoch"]
    rows = []
    for row in figures["models"]:
        best = row["best"] or {"value": None, "trial": None, "epoch": None}
        value = "-" if best["value"] is None else f"{best['value']:.4f}"
        counts = [row[key] for key in ("trials", "complete", "pruned", "fail")]
        cells = [*map(str, counts), f"{row['seconds']:.0f}", value, str(best["trial"]), str(best["epoch"])]
        rows.append([row["model"], *cells])
    lines = [f"{figures['metric']}, tuned on the validation documents alone", "", columns(header, rows)]
    for row in figures["models"]:
        if row["best"] is not None:
            picked = ", ".join(
                f"{k} = {_short(v)}" for k, v in sorted(row["best"]["chosen"].items()) if k != "model"
            )
            lines += [
                "",
                f"{row['model']}: {picked}",
                f"  nextvec train STORE --config {out}/best/{row['model']}.toml --out RUN",
            ]
    if figures["importance"]:
        parts = [f"{key} {value:.2f}" for key, value in figures["importance"].items()]
        lines += ["", f"What mattered (share of the spread between trials): {', '.join(parts)}"]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
