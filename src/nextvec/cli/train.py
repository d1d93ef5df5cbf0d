"""`nextvec train`."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.cli.common import Quiet, StorePath
from nextvec.cli.configure import DEFAULT_RECIPE, TrainingFlags
from nextvec.errors import ConfigError, NextvecWarning

if TYPE_CHECKING:
    from nextvec.corpus.store import Store


def train(
    store: StorePath,
    *,
    out: Annotated[Path, Parameter(help="Folder of the run.")],
    model: Annotated[str | None, Parameter(help="An architecture; `nextvec models` lists them.")] = None,
    flags: TrainingFlags | None = None,
    seed: Annotated[int | None, Parameter(help="Of the weights, the batches and the dropout.")] = None,
    devices: Annotated[
        int | None, Parameter(help="Processes on this machine, one a GPU; they divide each batch.")
    ] = None,
    nodes: Annotated[int | None, Parameter(help="Machines; more than one are started by torchrun.")] = None,
    strategy: Annotated[
        Literal["ddp", "fsdp"] | None,
        Parameter(help="Each process holds the model (ddp) or a share of it (fsdp)."),
    ] = None,
    init_from: Annotated[
        str | None,
        Parameter(
            help="Start from this run's weights, on any store of its encoder: a folder, a Hub id, or "
            "pretrained, the model that comes with the package. Its configuration is taken where no flag "
            "says otherwise."
        ),
    ] = None,
    resume: Annotated[
        bool,
        Parameter(
            negative=(), help="Go on with the run in --out; with --max-updates or --epochs beyond its end."
        ),
    ] = False,
    tensorboard: Annotated[
        bool, Parameter(negative=(), help="Write the history to OUT/tensorboard too (nextvec[tensorboard]).")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train one model. The best model by validation cosine lies in --out, the last in --out/final."""
    from nextvec.checkpoint import CONFIG
    from nextvec.config import given as only_given
    from nextvec.config import merge
    from nextvec.corpus.store import Store
    from nextvec.experiments.evaluating import evaluate_flags, foretell
    from nextvec.training.checks import check_config
    from nextvec.training.config import make_config, read_config
    from nextvec.training.distributed import is_first
    from nextvec.training.history import Scalars
    from nextvec.training.loop import train as run
    from nextvec.training.warm import warm_start

    if init_from is not None and resume:
        raise ConfigError(
            "a run that goes on has its weights already", where="--init-from", remedy="leave --init-from out"
        )
    flags = flags or TrainingFlags()
    file, given = flags.layers()
    if model is not None:
        given.setdefault("model", {})["name"] = model
    how = {"seed": seed, "devices": devices, "nodes": nodes, "strategy": strategy}
    given = merge(given, only_given({"runtime": how}))
    opened = Store.open(store)
    recipe, under = _beneath(opened, flags, init_from, out if resume and given and not file else None)
    if resume and not given and not file and flags.recipe is None:
        config = None
    elif not any("name" in layer.get("model", {}) for layer in (under, file, given)):
        raise ConfigError("no model is named", where="--model", remedy="see `nextvec models`")
    else:
        config = make_config(recipe, under, file, given, where=flags.config or "flags")
    start = None
    if config is not None and not resume:
        check_config(opened, config)
        if is_first() and (few := foretell(opened, config.data)) is not None:
            warnings.warn(few, NextvecWarning, stacklevel=1)
        if init_from is not None:
            start = warm_start(init_from, opened, config)
    with Scalars(out) if tensorboard and is_first() else nullcontext() as told:
        result = run(opened, config, out, resume=resume, quiet=quiet, after_epoch=told, start=start)
    if not is_first():
        return
    print(
        f"{result.model}: best validation cosine {result.cosine:.4f} in epoch {result.epoch} of "
        f"{result.epochs} ({result.stopped}), {result.parameters:,} parameters, "
        f"{result.updates:,} updates, {result.seconds:.0f} s\nrun: {result.run}\n"
        f"evaluate it beside the baselines: nextvec evaluate {result.run} --store {store} --split test"
        f"{evaluate_flags(read_config(out / CONFIG).data)}"
    )


def _beneath(
    store: Store, flags: TrainingFlags, init_from: str | None, resumed: Path | None
) -> tuple[str, dict[str, Any]]:
    """The recipe, and what lies over it and under file and flags: what a run to start from, or the one that
    is resumed, was trained with."""
    from nextvec.checkpoint import CONFIG
    from nextvec.config import to_dict
    from nextvec.training.config import read_config
    from nextvec.training.warm import inherited, recipe_of

    recipe = flags.recipe or DEFAULT_RECIPE
    if init_from is not None:
        under = inherited(init_from, store)
        if flags.recipe is not None:  # it says how to train, and the run only which network
            return recipe, {"model": under["model"]}
        return recipe_of(init_from) or recipe, under
    if resumed is not None and flags.recipe is None and (resumed / CONFIG).is_file():
        return recipe, to_dict(read_config(resumed / CONFIG))
    return recipe, {}
