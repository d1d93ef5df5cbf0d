"""`nextvec train`."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nextvec.cli.common import Quiet, StorePath
from nextvec.cli.configure import DEFAULT_RECIPE, TrainingFlags
from nextvec.errors import ConfigError, NextvecWarning


def train(
    store: StorePath,
    *,
    out: Annotated[Path, Parameter(help="Folder of the run.")],
    model: Annotated[str | None, Parameter(help="An architecture; `nextvec models` lists them.")] = None,
    flags: TrainingFlags | None = None,
    seed: Annotated[int | None, Parameter(help="Of the weights, the batches and the dropout.")] = None,
    resume: Annotated[bool, Parameter(negative=(), help="Go on with the run in --out.")] = False,
    tensorboard: Annotated[
        bool, Parameter(negative=(), help="Write the history to OUT/tensorboard too (nextvec[tensorboard]).")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train one model. The best model by validation cosine lies in --out, the last in --out/final."""
    from nextvec.checkpoint import CONFIG
    from nextvec.corpus.store import Store
    from nextvec.experiments.evaluating import evaluate_flags, foretell
    from nextvec.training.config import read_config
    from nextvec.training.history import Scalars
    from nextvec.training.loop import train as run
    from nextvec.training.recipes import make_config
    from nextvec.training.session import check_config

    flags = flags or TrainingFlags()
    file, given = flags.layers()
    if model is not None:
        given.setdefault("model", {})["name"] = model
    if seed is not None:
        given.setdefault("runtime", {})["seed"] = seed
    if resume and not given and not file and flags.recipe is None:
        config = None
    elif model is None and "name" not in file.get("model", {}):
        raise ConfigError("no model is named", where="--model", remedy="see `nextvec models`")
    else:
        config = make_config(flags.recipe or DEFAULT_RECIPE, file, given, where=flags.config or "flags")
    opened = Store.open(store)
    if config is not None and not resume:
        check_config(opened, config)
        if (few := foretell(opened, config.data)) is not None:
            warnings.warn(few, NextvecWarning, stacklevel=1)
    with Scalars(out) if tensorboard else nullcontext() as told:
        result = run(opened, config, out, resume=resume, quiet=quiet, after_epoch=told)
    print(
        f"{result.model}: best validation cosine {result.cosine:.4f} in epoch {result.epoch} of "
        f"{result.epochs} ({result.stopped}), {result.parameters:,} parameters, "
        f"{result.updates:,} updates, {result.seconds:.0f} s\nrun: {result.run}\n"
        f"evaluate it beside the baselines: nextvec evaluate {result.run} --store {store} --split test"
        f"{evaluate_flags(read_config(out / CONFIG).data)}"
    )
