"""`nextvec rollout`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from nextvec.cli.common import JsonTarget, output
from nextvec.cli.passages import describe_passage, describe_reading, listed
from nextvec.cli.texts import (
    DecoderFlags,
    EncoderFlags,
    PassageCount,
    Query,
    TextFlags,
    VectorFlags,
    open_pipeline,
    read_text,
)
from nextvec.errors import ConfigError

if TYPE_CHECKING:
    from nextvec.decoding.base import RolloutPassage, RolloutText
    from nextvec.inference.rollout import RolloutSettings

GUARDING, SNAPPING, SAMPLING = Group("Guard"), Group("Snapping"), Group("Sampling")


@Parameter(name="*")
@dataclass(frozen=True)
class CourseFlags:
    """When a rollout stops, and what it reads on the way."""

    min_cosine: Annotated[
        float | None,
        Parameter(group=GUARDING, help="Stop when the cosine to the last chunk read falls below: drift."),
    ] = None
    max_repetition: Annotated[
        float,
        Parameter(group=GUARDING, help="Stop when the cosine to the step before rises above; 1 never stops."),
    ] = 0.999
    rescale: Annotated[
        bool,
        Parameter(group=GUARDING, help="Bring every prediction to the mean length of the chunks read."),
    ] = True
    snap: Annotated[
        bool, Parameter(group=SNAPPING, negative=(), help="Pull predictions to the nearest real passage.")
    ] = False
    snap_threshold: Annotated[
        float | None, Parameter(group=SNAPPING, help="From this cosine to it on (default: 0.6).")
    ] = None
    snap_blend: Annotated[
        float | None,
        Parameter(group=SNAPPING, help="Share of the passage in what is read next (default: 0.5)."),
    ] = None
    sample: Annotated[
        bool, Parameter(group=SAMPLING, negative=(), help="Draw every step; for generative runs.")
    ] = False
    seed: Annotated[int | None, Parameter(group=SAMPLING, help="Of the draws (default: 0).")] = None

    def course(self) -> RolloutSettings:
        """As a rollout takes it. Raises ConfigError for what means nothing without --snap or --sample."""
        from nextvec.inference.rollout import Guard, RolloutSettings, SnapToCorpus

        snapping = {"threshold": self.snap_threshold, "blend": self.snap_blend}
        given = {name: value for name, value in snapping.items() if value is not None}
        if given and not self.snap:
            raise ConfigError("nothing is snapped", where=f"--snap-{min(given)}", remedy="add --snap")
        if self.seed is not None and not self.sample:
            raise ConfigError("nothing is drawn", where="--seed", remedy="add --sample")
        guard = Guard(self.min_cosine, self.max_repetition, self.rescale)
        return RolloutSettings(
            guard,
            SnapToCorpus(**given) if self.snap else None,
            seed=(self.seed or 0) if self.sample else None,
        )


def rollout(
    run: Annotated[Path, Parameter(help="A run folder, or an export of one.")],
    *,
    steps: Annotated[int, Parameter(help="How far, in chunks.")] = 5,
    text: TextFlags | None = None,
    query: Query = None,
    flags: CourseFlags | None = None,
    nearest: PassageCount = 1,
    decoder: DecoderFlags | None = None,
    encoder: EncoderFlags | None = None,
    vector: VectorFlags | None = None,
    device: Annotated[Literal["cpu", "cuda", "mps"], Parameter(help="Where the model predicts.")] = "cpu",
    json: JsonTarget = None,
) -> None:
    """Continue a text step by step in vector space, each step reading those before it.

    The guard ends it where it drifts off or stands still; what a step says is told as by `nextvec predict`.
    """
    from nextvec.inference.predictor import open_predictor

    vectors = vector or VectorFlags()
    vectors.check()
    course = (flags or CourseFlags()).course()
    if steps < 1:
        raise ConfigError(f"a rollout of {steps} steps", where="--steps", remedy="ask for 1 or more")
    read, where = read_text(text)
    predictor = open_predictor(run, device)
    wanted = nearest > 0 or course.snap is not None
    with open_pipeline(predictor, encoder, decoder, passages=wanted) as pipeline:
        found = pipeline.rollout(read, steps, course, query=query, n=nearest, where=where)
    vectors.write(found.raw)
    figures = {"run": str(run), "encoder": predictor.space.encoder["name"], "query": query}
    output(describe(found, predictor.name, steps), {**figures, **found.to_json()}, json)


def describe(found: RolloutText, name: str, steps: int) -> str:
    """What was read, the steps, and why they end."""
    end = f"{len(found.steps)} of {steps} steps"
    if found.objection is not None:
        end += f"; the last one {found.objection}"
    return "\n\n".join([describe_reading(found, name), *map(_step, found.steps), end])


def _step(passage: RolloutPassage) -> str:
    step = passage.step
    repetition = "" if step.repetition is None else f", {step.repetition:.3f} to the step before"
    lines = [
        f"Step {passage.number}: cosine {step.drift:.3f} to the last chunk read{repetition}, "
        f"length {step.length:.3f}"
    ]
    if passage.snapped is not None:
        lines += ["snapped to", *describe_passage(passage.snapped)]
    if passage.decoded is not None:
        lines += describe_passage(passage.decoded)
    return "\n".join([*lines, *listed(passage.nearest)])
