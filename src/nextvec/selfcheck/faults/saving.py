"""Faults of saving and serving: a model that is not the one that was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextvec.config import from_dict
from nextvec.experiments import evidence
from nextvec.experiments.verify import Verification
from nextvec.models.base import NextVectorModel
from nextvec.models.saving import CONFIG, load_model, save_model
from nextvec.selfcheck.faults.command import command
from nextvec.selfcheck.faults.fault import Seen, fault, nothing, patched
from nextvec.selfcheck.faults.scene import Scene, edit_json, evaluate


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
    alarm=("RunError", "the loaded model answers off by"),
    without={"nextvec.models.saving:_check_golden": nothing},
)
def other_forward(scene: Scene, faulty: bool) -> Seen:
    """The configuration asks for another baseline under the head: same tensors, other function."""
    run = scene.copy_run()
    if faulty:
        edit_json(run / CONFIG, lambda content: content["config"].update(residual="last"))
    return evaluate(run, store=scene.shared.store.path)


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
    alarm=("RunError", "is not part of gru"),
    without={
        "nextvec.models.saving:_assemble": lenient,
        "nextvec.models.saving:_check_golden": nothing,
    },
)
def fewer_layers(scene: Scene, faulty: bool) -> Seen:
    """The checkpoint's configuration says two layers, its weights are of four."""
    run = scene.copy_run()
    if faulty:
        edit_json(run / CONFIG, lambda content: content["config"].update(layers=2))
    return evaluate(run, store=scene.shared.store.path)


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
    alarm=("check validation", "not reproduced"),
    without={"nextvec.experiments.verify:verify": verify_but("validation")},
)
def not_reproduced(scene: Scene, faulty: bool) -> Seen:
    """The figures are the trained model's, the weights another's."""
    run = scene.copy_run()
    if faulty:
        resave(run, lambda model: [p.neg_() for p in model.head.parameters()])
    return command("verify", run, "--json", "-")
