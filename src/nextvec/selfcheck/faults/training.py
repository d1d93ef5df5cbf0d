"""Faults of training: nothing to learn from, one term that drowns the other, a collapse."""

from __future__ import annotations

import json
import math

from nextvec.objectives.config import OWN, LossConfig
from nextvec.selfcheck.faults.command import command
from nextvec.selfcheck.faults.fault import Seen, Sign, fault, nothing
from nextvec.selfcheck.faults.scene import RUN, Scene, train

SMALL = ("--set=model.options.hidden=16", "--set=model.options.layers=1")


def any_weights(config: LossConfig, *, generative: bool = False) -> dict[str, float]:
    """In the place of `LossConfig.active`: without its refusal."""
    return {"mse": config.mse, **({OWN: config.generative} if generative else {})}


@fault(
    "loss weight 0 by default",
    "loss weight 0 by default",
    did="trained on nothing",
    guard="a configuration whose loss weights are all zero is refused",
    alarm=("ConfigError", "every loss weight is zero"),
    without={"nextvec.objectives.config:LossConfig.active": any_weights},
)
def loss_weight_zero(scene: Scene, faulty: bool) -> Seen:
    """`nextvec train` with the only weight at zero."""
    weight = 0.0 if faulty else 1.0
    return train(
        scene.shared.store.path, scene.folder / "run", *SMALL, "--epochs=1", f"--set=loss.mse={weight}"
    )


@fault(
    "a term that drowns the other",
    "InfoNCE at weight 0.5 beside MSE",
    did="700 x larger gradient; cosine 0.27",
    guard="each term's value and gradient norm are logged; a warning at a ratio > 50",
    alarm=("NextvecWarning", "which has no say"),
    without={
        "nextvec.objectives.combine:GRADIENT_RATIO_LIMIT": math.inf,
        "nextvec.evaluation.diagnostics.run:GRADIENT_RATIO": math.inf,
    },
)
def drowned_term(scene: Scene, faulty: bool) -> Seen:
    """InfoNCE with some 700 times the gradient of MSE; `diagnose run` must name it afterwards too.

    In few dimensions that takes more than a weight of 0.5, for the gradient of MSE falls with the dimension.
    """
    run = scene.folder / "run"
    weight = 50.0 if faulty else 0.05
    seen = train(
        scene.shared.store.path, run, *SMALL, "--epochs=2", "--set=loss.mse=1.0",
        f"--set=loss.infonce={weight}",
    )  # fmt: skip
    logged = json.loads((run / "history.jsonl").read_text().splitlines()[0])
    if set(logged["term_gradient_norms"]) != {"mse", "infonce"} or "loss.infonce" not in logged["train"]:
        return Seen(1, (Sign("history", "a term or its gradient norm is not logged"),))
    later = command("diagnose", "run", run, "--json", "-")
    found = {sign.name for sign in later.signs}
    if faulty and seen.signs and "verdict gradient ratio" not in found:
        return Seen(1, (Sign("history", "diagnose run does not see it"),))
    return seen + later


@fault(
    "contrastive loss without a negative",
    "",
    did="a loss of 0 from the first batch on, trained on nothing",
    guard="InfoNCE is refused where batch or documents hold no negative",
    alarm=("ConfigError", "a batch of 1 holds no negatives"),
    without={
        "nextvec.training.session:check_material": nothing,
        "nextvec.objectives.contrastive:InfoNCE.refuse_single": nothing,
    },
)
def no_negatives(scene: Scene, faulty: bool) -> Seen:
    """InfoNCE over batches of one document."""
    size = 1 if faulty else 4
    return train(
        scene.shared.store.path, scene.folder / "run", *SMALL, "--epochs=1", "--set=loss.infonce=0.05",
        f"--set=optim.batch_size={size}",
    )  # fmt: skip


@fault(
    "collapse in one epoch",
    "collapse in one epoch (0.54 to 0.34)",
    did="the best model was lost",
    guard="the best checkpoint is kept; training stops on a fall of 20 %",
    alarm=("NextvecWarning", "the model has collapsed; the run stops, the best"),
    without={"nextvec.training.loop:COLLAPSE": -math.inf},
)
def collapse(scene: Scene, faulty: bool) -> Seen:
    """A learning rate that rises until the model breaks."""
    run = scene.folder / "run"
    rising = ("--set=optim.lr=3", "--set=optim.warmup=0.99", "--set=optim.batch_size=2")
    seen = train(
        scene.shared.store.path, run, *SMALL, "--epochs=8", "--set=optim.schedule=constant",
        "--set=optim.clip=0.0", "--set=optim.patience=0", *(rising if faulty else ()),
    )  # fmt: skip
    if seen.code:
        return seen
    result, kept = (json.loads((run / name).read_text()) for name in ("metrics.json", "config.json"))
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: float(line["validation"]["cosine"]))
    if kept["epoch"] != best["epoch"] or result["cosine"] != best["validation"]["cosine"]:
        return seen + Seen(1, (Sign("checkpoint", "the model that was kept is not the best"),))
    return seen


@fault(
    "resumed with other settings",
    "",
    did="a run of two protocols, reported as one",
    guard="a resumed run keeps the configuration and the store it was started with",
    alarm=("RunError", "the run was started with optim.lr"),
    without={"nextvec.training.session:refuse_changes": nothing},
)
def resumed_otherwise(scene: Scene, faulty: bool) -> Seen:
    """`nextvec train --resume` with another learning rate."""
    rate = ("--set=optim.lr=0.02",) if faulty else ()
    return train(scene.shared.store.path, scene.copy_run(), *RUN, "--resume", *rate)
