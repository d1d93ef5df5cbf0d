"""From a run to smaller runs: importance measured on its training documents, what is least important taken
out, the rest trained a little further by the run's own configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from nextvec.corpus.store import Store
from nextvec.disk import refuse_taken
from nextvec.errors import ConfigError, EncoderMismatchError, RunError, SplitError
from nextvec.experiments.pruning.magnitude import zeroed
from nextvec.experiments.pruning.structured import Importance, chosen, sizes, smaller
from nextvec.experiments.pruning.units import find_units
from nextvec.experiments.records import read_run_config
from nextvec.hardware import find_hardware
from nextvec.models.base import NextVectorModel
from nextvec.models.saving import load_model
from nextvec.training.build import Start
from nextvec.training.config import TrainConfig
from nextvec.training.loop import assess, train
from nextvec.training.session import build_session

Method = Literal["structured", "magnitude"]
IMPORTANCE_BATCHES = 16


@dataclass(frozen=True)
class Plan:
    """What is pruned, and how.

    Attributes:
        keep: shares of the units (or weights) that stay, each in (0, 1]; 1.0 only trains on, as a control.
        updates: of the training that follows; at least 1.
        split_file: in place of the run's own.
        batches: of training documents that importance is measured on.
    Raises:
        ConfigError: a share or a number that cannot be meant.
    """

    keep: tuple[float, ...]
    method: Method = "structured"
    updates: int = 200
    split_file: Path | None = None
    batches: int = IMPORTANCE_BATCHES

    def __post_init__(self) -> None:
        if not self.keep or len(set(self.keep)) < len(self.keep) or not all(0 < k <= 1 for k in self.keep):
            given = ",".join(f"{k:g}" for k in self.keep) or "nothing"
            raise ConfigError(
                f"{given} are no shares to keep", where="--keep", remedy="write --keep 0.5 or 0.75,0.5"
            )
        for flag, value in (("--fine-tune-updates", self.updates), ("--batches", self.batches)):
            if value < 1:
                raise ConfigError(f"is {value}", where=flag, remedy="give at least 1")


@dataclass(frozen=True)
class Pruned:
    """One outcome: the model as it was cut, and the folder of the run it was trained on in."""

    keep: float
    cut: NextVectorModel
    folder: Path


class Source:
    """The run that is pruned, with everything that has to fit before anything is done."""

    def __init__(self, run: Path, store: Store, plan: Plan) -> None:
        """
        Raises:
            RunError, ConfigError: no run there, or a damaged one.
            EncoderMismatchError: it was trained on vectors of another encoder than the store's.
            SplitError: its split file is not there.
        """
        self.run, self.store, self.plan = run, store, plan
        self.config, (model, info) = read_run_config(run), load_model(run)
        self.model = model.float()
        trained = info.get("encoder", {}).get("fingerprint")
        if trained != store.encoder["fingerprint"] or self.model.d_embed != store.dimension:
            raise EncoderMismatchError(
                "was trained on vectors of another encoder", where=run, remedy="give the store of its encoder"
            )
        if plan.split_file is not None:
            split = replace(self.config.data.split, file=str(plan.split_file.resolve()))
            self.config = replace(self.config, data=replace(self.config.data, split=split))
        division = self.config.data.split.file
        if division is not None and not Path(division).is_file():
            raise SplitError("is not there", where=division, remedy="give the split file with --split-file")

    def cutter(self) -> Callable[[float], tuple[NextVectorModel, dict[str, int]]]:
        """What makes of a share to keep the model cut to it, and its sizes where they are others.

        Raises:
            ModelError: its architecture, or its head, cannot be pruned this way.
        """
        model = self.model
        if self.plan.method == "magnitude":
            return lambda keep: (zeroed(model, keep), {})
        units = find_units(model)
        scores = self._importance().scores

        def cut(keep: float) -> tuple[NextVectorModel, dict[str, int]]:
            if keep == 1:
                return model, {}
            kept = chosen(units, scores, keep)
            return smaller(model, units, kept), sizes(units, kept)

        return cut

    def _importance(self) -> Importance:
        """Of the units, by the run's own loss on its first training batches, dropout included."""
        hardware = find_hardware(self.config.runtime)
        session = build_session(self.store, self.config, self.run, hardware, Start(self.model.state_dict()))
        session.network.train()
        importance = Importance(session.model, find_units(session.model))
        for batch in islice(session.training.epoch(0), self.plan.batches):
            answer = assess(session, batch.to(session.fabric.device))
            session.fabric.backward(answer.loss.total)
            importance.add()
            session.model.zero_grad(set_to_none=True)
        return importance

    def tuning(self, changed: dict[str, int]) -> TrainConfig:
        """The run's own configuration for a short training of a model with `changed` sizes: as many epochs as
        the updates take, the whole material from the start, from no other checkpoint."""
        model = replace(self.config.model, options={**self.config.model.options, **changed}, pretrained="")
        data = replace(self.config.data, curriculum="none")
        # An epoch has at least one batch, so this is enough; max_updates ends it.
        optim = replace(
            self.config.optim, epochs=self.plan.updates, max_updates=self.plan.updates, max_seconds=0.0
        )
        return replace(self.config, model=model, data=data, optim=optim)

    def origin(self, keep: float) -> dict[str, Any]:
        """What the new run says of where it comes from."""
        return {"run": str(self.run.resolve()), "method": self.plan.method, "keep": keep}


def prune(run: Path, store: Store, plan: Plan, out: Path, *, quiet: bool = False) -> list[Pruned]:
    """Cut a run to each share of `plan.keep` and train on; each outcome is a run as any other.

    Args:
        out: the folder of the new run; of several shares each gets a folder in it, `keep-0.5`.
    Raises:
        RunError: `out` is not empty, or the run is damaged.
        ModelError: the architecture cannot be pruned this way.
        EncoderMismatchError, SplitError, ConfigError: run, store and split do not go together.
        TrainingInterrupted: everything is saved; `nextvec train --resume` goes on with the run it was at.
    """
    refuse_taken(out, RunError, "give another folder")
    source = Source(run, store, plan)
    cut = source.cutter()
    made = []
    for keep in plan.keep:
        folder = out if len(plan.keep) == 1 else out / f"keep-{keep:g}"
        model, changed = cut(keep)
        start = Start(model.state_dict(), source.origin(keep), keep_zeros=plan.method == "magnitude")
        train(store, source.tuning(changed), folder, start=start, quiet=quiet)
        made.append(Pruned(keep, model, folder))
    return made
