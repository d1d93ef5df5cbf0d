"""Faults of training: nothing to learn from, one term that drowns the other, a collapse."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextvec.config import from_dict
from nextvec.data.trained import TrainedOn
from nextvec.data.windows import FloatArray, Windows
from nextvec.evaluation.evaluation_set import Leaks
from nextvec.experiments import evidence
from nextvec.experiments.verify import Verification
from nextvec.models.base import NextVectorModel
from nextvec.models.saving import CONFIG, load_model, save_model
from nextvec.objectives.config import OWN, LossConfig
from nextvec.selfcheck.faults import fault, nothing, patched
from nextvec.selfcheck.faults.fixture import (
    RUN,
    D,
    Fixture,
    Observation,
    Signal,
    command,
    edit_json,
    run_evaluate,
    train,
)
from nextvec.selfcheck.worlds import make_store

SMALL = ("--set=model.options.hidden=16", "--set=model.options.layers=1")


def any_weights(config: LossConfig, *, generative: bool = False) -> dict[str, float]:
    """In the place of `LossConfig.active`: without its refusal."""
    return {"mse": config.mse, **({OWN: config.generative} if generative else {})}


@fault(
    "loss weight 0 by default",
    "loss weight 0 by default",
    did="trained on nothing",
    guard="a configuration whose loss weights are all zero is refused",
    expected=("ConfigError", "every loss weight is zero"),
    without={"nextvec.objectives.config:LossConfig.active": any_weights},
)
def loss_weight_zero(fixture: Fixture, faulty: bool) -> Observation:
    """`nextvec train` with the only weight at zero."""
    weight = 0.0 if faulty else 1.0
    return train(
        fixture.shared.store.path, fixture.folder / "run", *SMALL, "--epochs=1", f"--set=loss.mse={weight}"
    )


@fault(
    "a term that drowns the other",
    "InfoNCE at weight 0.5 beside MSE",
    did="700 x larger gradient; cosine 0.27",
    guard="each term's value and gradient norm are logged; a warning at a ratio > 50",
    expected=("NextvecWarning", "which hardly counts then"),
    without={
        "nextvec.objectives.combine:GRADIENT_RATIO_LIMIT": math.inf,
        "nextvec.diagnostics.run:GRADIENT_RATIO": math.inf,
    },
)
def drowned_term(fixture: Fixture, faulty: bool) -> Observation:
    """InfoNCE with some 700 times the gradient of MSE; `diagnose run` must name it afterwards too.

    In few dimensions that takes more than a weight of 0.5, for the gradient of MSE falls with the dimension.
    """
    run = fixture.folder / "run"
    weight = 50.0 if faulty else 0.05
    seen = train(
        fixture.shared.store.path, run, *SMALL, "--epochs=2", "--set=loss.mse=1.0",
        f"--set=loss.infonce={weight}",
    )  # fmt: skip
    logged = json.loads((run / "history.jsonl").read_text().splitlines()[0])
    if set(logged["term_gradient_norms"]) != {"mse", "infonce"} or "loss.infonce" not in logged["train"]:
        return Observation(1, (Signal("history", "a term or its gradient norm is not logged"),))
    later = command("diagnose", "run", run, "--json", "-")
    found = {signal.name for signal in later.signals}
    if faulty and seen.signals and "verdict gradient ratio" not in found:
        return Observation(1, (Signal("history", "diagnose run does not see it"),))
    return seen + later


@fault(
    "contrastive loss without a negative",
    "",
    did="a loss of 0 from the first batch on, trained on nothing",
    guard="InfoNCE is refused where batch or documents hold no negative",
    expected=("ConfigError", "a batch of 1 holds no negatives"),
    without={
        "nextvec.training.checks:check_data": nothing,
        "nextvec.objectives.contrastive:InfoNCE.refuse_single": nothing,
    },
)
def no_negatives(fixture: Fixture, faulty: bool) -> Observation:
    """InfoNCE over batches of one document."""
    size = 1 if faulty else 4
    return train(
        fixture.shared.store.path, fixture.folder / "run", *SMALL, "--epochs=1", "--set=loss.infonce=0.05",
        f"--set=optim.batch_size={size}",
    )  # fmt: skip


@fault(
    "collapse in one epoch",
    "collapse in one epoch (0.54 to 0.34)",
    did="the best model was lost",
    guard="the best checkpoint is kept; training stops on a fall of 20 %",
    expected=("NextvecWarning", "the model has collapsed; the run stops, the best"),
    without={"nextvec.training.loop:COLLAPSE": -math.inf},
)
def collapse(fixture: Fixture, faulty: bool) -> Observation:
    """A learning rate that rises until the model breaks."""
    run = fixture.folder / "run"
    rising = ("--set=optim.lr=3", "--set=optim.warmup=0.99", "--set=optim.batch_size=2")
    seen = train(
        fixture.shared.store.path, run, *SMALL, "--epochs=8", "--set=optim.schedule=constant",
        "--set=optim.clip=0.0", "--set=optim.patience=0", *(rising if faulty else ()),
    )  # fmt: skip
    if seen.code:
        return seen
    result, kept = (json.loads((run / name).read_text()) for name in ("metrics.json", "config.json"))
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: float(line["validation"]["cosine"]))
    if kept["epoch"] != best["epoch"] or result["cosine"] != best["validation"]["cosine"]:
        return seen + Observation(1, (Signal("checkpoint", "the model that was kept is not the best"),))
    return seen


@fault(
    "resumed with other settings",
    "",
    did="a run of two protocols, reported as one",
    guard="a resumed run keeps the configuration and the store it was started with",
    expected=("RunError", "the run was started with optim.lr"),
    without={
        "nextvec.checkpoint:refuse_changes": nothing,
        "nextvec.training.session:refuse_changes": nothing,
    },
)
def resumed_otherwise(fixture: Fixture, faulty: bool) -> Observation:
    """`nextvec train --resume` with another learning rate."""
    rate = ("--set=optim.lr=0.02",) if faulty else ()
    return train(fixture.shared.store.path, fixture.copy_run(), *RUN, "--resume", *rate)


# Faults of saving and serving: a model that is not the one that was trained.


def resave(run: Path, change: Callable[[NextVectorModel], object]) -> None:
    """Change the model of a run and save it in its place, with all that was said of the first."""
    model, info = load_model(run)
    with torch.no_grad():
        change(model)
    save_model(run, model, {name: info[name] for name in ("encoder", "training", "epoch", "validation")})


@fault(
    "other forward pass, same weight names",
    "same weight names, other forward pass",
    did="cosine 0.48 became 0 at serving time",
    guard="a golden input and output in every checkpoint, checked on load",
    expected=("RunError", "the loaded model answers off by"),
    without={"nextvec.models.saving:_check_golden": nothing},
)
def other_forward(fixture: Fixture, faulty: bool) -> Observation:
    """The configuration asks for another baseline under the head: same tensors, other function."""
    run = fixture.copy_run()
    if faulty:
        edit_json(run / CONFIG, lambda content: content["config"].update(residual="last"))
    return run_evaluate(run, store=fixture.shared.store.path)


def lenient(
    cls: type[NextVectorModel], config: Mapping[str, Any], weights: dict[str, Tensor], folder: Path
) -> NextVectorModel:
    """Loading as the field did it: what does not fit is left out."""
    model = cls(from_dict(cls.Config, config, where=folder))  # type: ignore[call-arg]
    fitting = {name: value for name, value in weights.items() if name in model.state_dict()}
    model.load_state_dict(fitting, strict=False)
    return model.eval()


@fault(
    "trained with four layers, served with two",
    "trained 4-layer, served 2-layer",
    did="0.41 instead of 0.59",
    guard="the configuration travels inside the checkpoint, and every tensor must fit it",
    expected=("RunError", "is not part of gru"),
    without={"nextvec.models.saving:_assemble": lenient, "nextvec.models.saving:_check_golden": nothing},
)
def fewer_layers(fixture: Fixture, faulty: bool) -> Observation:
    """The checkpoint's configuration says two layers, its weights are of four."""
    run = fixture.copy_run()
    if faulty:
        edit_json(run / CONFIG, lambda content: content["config"].update(layers=2))
    return run_evaluate(run, store=fixture.shared.store.path)


def verify_but(check: str) -> Callable[..., Verification]:
    """`verify` without one of its checks, in this process."""

    def verify(run: Path, store: Path | None = None, split_file: Path | None = None) -> Verification:
        kept = {name: look for name, look in evidence.CHECKS.items() if name != check}
        with patched({"nextvec.experiments.evidence:CHECKS": kept}):
            return Verification(str(run), tuple(evidence.examine(run, store, split_file)))

    return verify


@fault(
    "reported validation cannot be measured again",
    "reported validation 0.62, measured later 0.04",
    did="a model was believed that nobody had",
    guard="verify reloads the saved model in a fresh process and must reproduce its figure to 1e-6",
    expected=("check validation", "not reproduced"),
    without={"nextvec.experiments.verify:verify": verify_but("validation")},
)
def not_reproduced(fixture: Fixture, faulty: bool) -> Observation:
    """The figures are the trained model's, the weights another's."""
    run = fixture.copy_run()
    if faulty:
        resave(run, lambda model: [p.neg_() for p in model.head.parameters()])
    return command("verify", run, "--json", "-")


# Faults of splitting: figures taken on what was trained on.

ARTICLES, PIECE = 30, 6


def all_pass(store: Any, windows: Windows, trained: TrainedOn, **_: object) -> tuple[Windows, Leaks]:
    """The leak guard, asleep."""
    return windows, Leaks(len(windows), 0, 0, 0)


ASLEEP = {"nextvec.evaluation.harness:without_leaks": all_pass}


@fault(
    "windows split at random",
    "windows split at random",
    did="validation 0.59, new articles 0.04",
    guard="document splits only; windows whose target text stands in training are counted and refused",
    expected=("LeakError", "by target text"),
    without=ASLEEP,
)
def windows_split_at_random(fixture: Fixture, faulty: bool) -> Observation:
    """Every window is stored as a document of its own: then the hash of its id splits windows at random."""
    articles = fixture.shared.noise[:ARTICLES]
    count, length, _ = articles.shape
    starts = range(length - PIECE + 1)

    def text(article: int, place: int) -> str:
        return f"chunk {place} of article {article} says {article * 1000 + place}"

    if not faulty:
        return run_evaluate(store=make_store(fixture.folder / "store", articles, texts=text).path)
    pieces: FloatArray = np.stack([articles[a, s : s + PIECE] for a in range(count) for s in starts])
    per = len(starts)
    store = make_store(
        fixture.folder / "store", pieces.reshape(-1, PIECE, D), texts=lambda d, p: text(d // per, d % per + p)
    )
    return run_evaluate(store=store.path)


@fault(
    "one document in two splits",
    "windows split at random",
    did="windows of one article on both sides",
    guard="a split file names every document once",
    expected=("SplitError", "stands in train and in test"),
    without={
        "nextvec.data.splits:_read_split_file": lambda path: {
            i: name for name, ids in json.loads(path.read_text()).items() for i in ids
        }
    },
)
def document_in_two_splits(fixture: Fixture, faulty: bool) -> Observation:
    """A split file names a test document among the train documents too."""
    split = fixture.shared.split
    both = split.test[:1] if faulty else ()
    path = fixture.write_split((*split.train, *both), split.validation, split.test)
    return run_evaluate(store=fixture.shared.store.path, flags=["--split-file", path])


@fault(
    "evaluation on training articles",
    "evaluation on training articles",
    did="91 % overlap, recall@5 = 100 %",
    guard="windows whose document or text is in training are dropped, counted, and refused above 10 %",
    expected=("LeakError", "by document id"),
    without=ASLEEP,
)
def training_articles(fixture: Fixture, faulty: bool) -> Observation:
    """Ten of eleven test documents of a split file were trained on."""
    split = fixture.shared.split
    moved = split.train[:10] if faulty else ()
    unseen = split.test[: 1 if faulty else None]
    path = fixture.write_split(
        [i for i in split.train if i not in moved],
        [*split.validation, *split.test[len(unseen) :]],
        [*moved, *unseen],
    )
    return run_evaluate(fixture.shared.run, store=fixture.shared.store.path, flags=["--split-file", path])
