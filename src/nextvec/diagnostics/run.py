"""`nextvec diagnose run`: what the history of a training run says. Pure functions of a `RunRecord`."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nextvec.diagnostics.sections import Verdict, plain
from nextvec.evaluation.intervals import short
from nextvec.training.history import RunRecord

GRADIENT_RATIO = 50.0
COLLAPSE = 0.8
"""The brief's runs fell from .54 to .34 in one epoch; below this share of the best so far is a collapse."""
DIVERGED = 2.0
FLAT, THIN, WIDE = 0.02, 0.1, 1.5
"""Total variance of the predictions over that of the encoder's vectors. A good predictor's is about the share
it can predict (its cosine squared, for unit vectors); next to nothing is the mean vector every time."""
FEWER_DIMENSIONS = 0.05
GAP = 0.1
FELL = 0.01
BURST = 10.0
SLOW = 2.0
RATE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class RunDiagnosis:
    """A run's history and what it means. The figures are None before the first epoch."""

    record: RunRecord
    best_epoch: int | None
    seconds_to_best: float | None
    positions_per_second: float | None
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: the record's fields, then "best_epoch" and what else was found, then "verdicts"."""
        found: dict[str, Any] = plain(self)
        return {**found.pop("record"), **found}


def diagnose_run(record: RunRecord) -> RunDiagnosis:
    """Evaluate a history of any length: finished, interrupted, one epoch or none."""
    if not record.epochs:
        text = "no epoch is finished: there is nothing to evaluate yet"
        return RunDiagnosis(record, None, None, None, (Verdict("unfinished", "note", text),))
    broken = _not_finite(record)
    checks = ALWAYS if broken else ALWAYS + FIGURES
    verdicts = [*broken, *itertools.chain.from_iterable(check(record) for check in checks)]
    best = None if broken else record.best
    return RunDiagnosis(
        record=record,
        best_epoch=None if best is None else best.epoch,
        seconds_to_best=None if best is None else best.seconds,
        positions_per_second=statistics.median(e.speed for e in record.epochs),
        verdicts=tuple(verdicts),
    )


def _not_finite(record: RunRecord) -> list[Verdict]:
    for e in record.epochs:
        tables = (("train", e.train), ("validation", e.validation), ("term gradient", e.term_gradients))
        values = {f"{part} {k}": v for part, table in tables for k, v in table.items()}
        values |= {"lr": e.lr, "gradient norm": e.gradient_norm}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            text = f"diverged: {', '.join(bad)} of epoch {e.epoch} is not finite"
            return [Verdict("divergence", "red", text)]
    return []


def _state(record: RunRecord) -> list[Verdict]:
    done, planned = len(record.epochs), record.planned_epochs
    if record.stopped is None:
        text = f"unfinished: {done} of at most {planned} epochs are done; go on with `nextvec train --resume`"
        return [Verdict("unfinished", "note", text)]
    if record.stopped == "collapse":
        return []
    why = {
        "epochs": "all planned epochs",
        "max_updates": "the cap on updates was reached",
        "patience": "validation no longer improved",
    }.get(record.stopped, record.stopped)
    return [Verdict("finished", "ok", f"finished after {done} of at most {planned} epochs: {why}")]


def _consistent(record: RunRecord) -> list[Verdict]:
    """Lines follow each other, and an epoch trains on every target once."""
    numbers = [e.epoch for e in record.epochs]
    if numbers != list(range(1, len(numbers) + 1)):
        text = f"history is not whole: its epochs are {', '.join(map(str, numbers))}"
        return [Verdict("history", "red", text)]
    for one, two in itertools.pairwise(record.epochs):
        if two.update <= one.update or two.seconds < one.seconds:
            text = (
                f"history is not whole: updates or seconds do not grow from epoch {one.epoch} to {two.epoch}"
            )
            return [Verdict("history", "red", text)]
    for e in record.epochs:
        cut_short = record.stopped == "max_updates" and e is record.epochs[-1]
        if record.targets is not None and e.positions != record.targets and not cut_short:
            text = (
                f"epoch {e.epoch} trained on {e.positions:,} targets, its documents hold {record.targets:,}"
            )
            return [Verdict("positions", "red", text)]
    return []


def _terms(record: RunRecord) -> list[Verdict]:
    first, last = record.epochs[0], record.epochs[-1]
    values = ", ".join(
        f"{name} {_from_to(first.train[key], last.train[key])}" if first is not last
        else f"{name} {first.train[key]:.4g}"
        for name, key in [("loss", "loss"), *((t, f"loss.{t}") for t in first.terms if len(first.terms) > 1)]
        if key in last.train
    )  # fmt: skip
    if first is last:
        return [Verdict("losses", "note", f"one epoch: no trend to see ({values})")]
    if last.train["loss"] >= first.train["loss"]:
        text = f"nothing was learned: training {values} in {len(record.epochs)} epochs"
        return [Verdict("losses", "red", text)]
    return [Verdict("losses", "ok", f"training {values}")]


def _gradients(record: RunRecord) -> Iterator[Verdict]:
    worst, where = 1.0, None
    for e in record.epochs:
        norms = e.term_gradients
        if len(norms) > 1:
            ratio = max(norms.values()) / min(norms.values()) if min(norms.values()) > 0 else math.inf
            worst, where = (ratio, e) if ratio > worst or where is None else (worst, where)
    if where is not None:
        norms = where.term_gradients
        large, small = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
        text = (
            f"the gradient of loss.{large} is up to {worst:.3g} times that of loss.{small} "
            f"(epoch {where.epoch}: {norms[large]:.3g} and {norms[small]:.3g})"
        )
        flagged = worst > GRADIENT_RATIO
        consequence = ", which hardly counts then: change their weights" if flagged else ": every term counts"
        yield Verdict("gradient ratio", "warning" if flagged else "ok", text + consequence)
    norms_of_run = [e.gradient_norm for e in record.epochs]
    usual = statistics.median(norms_of_run)
    for e in record.epochs[1:]:
        if e.gradient_norm > BURST * usual:
            text = f"unstable: gradient norm {e.gradient_norm:.3g} in epoch {e.epoch}, usual {usual:.3g}"
            yield Verdict("gradient burst", "warning", text)
            break
    if record.clip and min(norms_of_run) > record.clip:
        text = f"gradients were clipped throughout (mean norm {usual:.3g}, limit {record.clip:g})"
        yield Verdict("clipping", "note", text)


def _moment_loss(record: RunRecord) -> Iterator[Verdict]:
    first, last = record.epochs[0], record.epochs[-1]
    keys = [f"loss.{t}" for t in first.terms if "moment" in t]
    for key in keys:
        if first is last or key not in last.train:
            continue
        falls = last.train[key] < first.train[key]
        values = _from_to(first.train[key], last.train[key])
        text = f"moment loss {'falls' if falls else 'does not fall'}: {values}"
        yield Verdict("moment loss", "ok" if falls else "warning", text)


def _variance(record: RunRecord) -> Iterator[Verdict]:
    """How much predictions vary in the best epoch, all in all and dimension by dimension."""
    best = record.best
    found = best.validation
    ratio = found.get("variance_ratio")
    if ratio is not None:
        what = f"predictions have {short(ratio)} of the encoder's variance (epoch {best.epoch})"
        if ratio < FLAT:
            text = f"collapsed: {what}: nearly the same vector every time"
            yield Verdict("variance", "red", text)
        elif ratio < THIN:
            yield Verdict("variance", "warning", f"{what}: close to the mean vector")
        else:
            wide = ratio > WIDE
            consequence = ": more than a prediction should" if wide else ""
            yield Verdict("variance", "warning" if wide else "ok", what + consequence)
    ours, theirs = found.get("std_above_0.01"), found.get("std_above_0.01_encoder")
    if ours is not None and theirs is not None:
        text = f"std above .01 in {100 * ours:.1f} % of dimensions, the encoder's own in {100 * theirs:.1f} %"
        mean = found.get("std_ratio")
        if mean is not None:
            text += f"; mean std {short(mean)} of the encoder's"
        level = "warning" if ours < theirs - FEWER_DIMENSIONS else "ok"
        yield Verdict("std", level, text)  # type: ignore[arg-type]


def _collapse(record: RunRecord) -> list[Verdict]:
    best = record.epochs[0]
    for e in record.epochs[1:]:
        before, now = best.validation["cosine"], e.validation["cosine"]
        if before > 0 and now < COLLAPSE * before:
            text = (
                f"collapse: the validation cosine fell from {short(before)} (epoch {best.epoch}) to "
                f"{short(now)} (epoch {e.epoch})"
            )
            return [Verdict("collapse", "red", text)]
        best = e if now > before else best
    return []


def _divergence(record: RunRecord) -> list[Verdict]:
    for part in ("train", "validation"):
        lowest = record.epochs[0]
        for e in record.epochs[1:]:
            before, now = getattr(lowest, part)["loss"], getattr(e, part)["loss"]
            if now > DIVERGED * before:
                text = (
                    f"diverging: the {part} loss rose from {before:.4g} (epoch {lowest.epoch}) to {now:.4g} "
                    f"(epoch {e.epoch})"
                )
                return [Verdict("divergence", "red", text)]
            lowest = e if now < before else lowest
    return []


def _over_fitting(record: RunRecord) -> Iterator[Verdict]:
    """Training cosines are means over the epoch, under dropout: where nothing is learned by heart they lie
    below the validation's."""
    best, last = record.best, record.epochs[-1]
    gap = best.train["cosine"] - best.validation["cosine"]
    text = (
        f"cosine in the best epoch ({best.epoch}): train {short(best.train['cosine'])}, "
        f"validation {short(best.validation['cosine'])}"
    )
    lost = best.validation["cosine"] - last.validation["cosine"]
    if lost > FELL and last.train["cosine"] > best.train["cosine"]:
        since = (
            f"over-fitting since epoch {best.epoch}: train rose to {short(last.train['cosine'])}, "
            f"validation fell to {short(last.validation['cosine'])}; {text}; the best model is kept"
        )
        yield Verdict("over-fitting", "warning", since)
    elif gap > GAP:
        yield Verdict("over-fitting", "warning", f"{text}: a gap of {short(gap)}")
    else:
        yield Verdict("over-fitting", "ok", f"{text}: no gap to speak of")
    if best is last and record.stopped in ("epochs", "max_updates") and len(record.epochs) > 1:
        text = "the last epoch is the best: it was still improving, and more epochs may help"
        yield Verdict("still improving", "note", text)


def _schedule(record: RunRecord) -> list[Verdict]:
    if record.rates is None:
        text = "schedule not checked: the run does not hold how many updates it was planned for"
        return [Verdict("schedule", "note", text)]
    for e, planned in zip(record.epochs, record.rates, strict=True):
        if abs(e.lr - planned) > RATE_TOLERANCE * max(planned, 1e-12):
            text = (
                f"the learning rate of epoch {e.epoch} ends at {e.lr:.4g}, planned was {planned:.4g} "
                f"({record.schedule})"
            )
            return [Verdict("schedule", "red", text)]
    lrs = " to ".join(f"{v:.3g}" for v in dict.fromkeys((record.epochs[0].lr, record.epochs[-1].lr)))
    return [Verdict("schedule", "ok", f"learning rates as planned: {record.schedule}, {lrs}")]


def _claims(record: RunRecord) -> list[Verdict]:
    if record.best_epoch is None or record.best_cosine is None:
        return []
    best = record.best
    if record.best_epoch != best.epoch or abs(record.best_cosine - best.validation["cosine"]) > 1e-9:
        text = (
            f"the result claims validation cosine {record.best_cosine:.6f} in epoch {record.best_epoch}, the "
            f"history has {best.validation['cosine']:.6f} in epoch {best.epoch}"
        )
        return [Verdict("claims", "red", text)]
    return []


def _time(record: RunRecord) -> Iterator[Verdict]:
    best, last = record.best, record.epochs[-1]
    speeds = [e.speed for e in record.epochs]
    usual = statistics.median(speeds)
    text = (
        f"{usual:,.0f} positions/s on {record.device} in {record.precision}; best model after "
        f"{best.seconds:.1f} s (epoch {best.epoch}, update {best.update:,}), {last.seconds:.1f} s in all"
    )
    yield Verdict("time", "ok", text)
    slowest = min(record.epochs, key=lambda e: e.speed)
    if slowest.speed * SLOW < usual:
        text = f"epoch {slowest.epoch} ran at {slowest.speed:,.0f} positions/s, usual were {usual:,.0f}"
        yield Verdict("slow epoch", "note", text)


def _from_to(first: float, last: float) -> str:
    return f"{first:.4g} to {last:.4g}"


Check = Callable[[RunRecord], Iterable[Verdict]]
ALWAYS: tuple[Check, ...] = (_state, _consistent)
LEARNED: tuple[Check, ...] = (
    _terms,
    _gradients,
    _moment_loss,
    _variance,
    _collapse,
    _divergence,
    _over_fitting,
)
FIGURES: tuple[Check, ...] = (*LEARNED, _schedule, _claims, _time)
"""Checks that need every figure of the history to be finite."""
