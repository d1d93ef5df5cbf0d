"""`nextvec predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from nextvec.cli import text_flags
from nextvec.cli.common import Device, JsonTarget, flag, output
from nextvec.errors import ConfigError
from nextvec.text import fill, shorten

if TYPE_CHECKING:
    from nextvec.decoding.base import NextPassage, Passage, RolloutPassage, RolloutText
    from nextvec.inference.rollout import RolloutSettings

CONFIDENCES = {
    "continuation": "that it follows here rather than come from another document, at even odds. Calibrated "
    "on true next chunks and random ones: a passage picked for its closeness looks better than it is",
    "agreement": "mean cosine between 32 samples of what may follow: no probability",
}


def predict(
    run: text_flags.Run = text_flags.PRETRAINED,
    *,
    text: text_flags.TextFlags | None = None,
    query: text_flags.Query = None,
    nearest: text_flags.PassageCount = None,
    decoder: text_flags.DecoderFlags | None = None,
    encoder: text_flags.EncoderFlags | None = None,
    vector: text_flags.VectorFlags | None = None,
    device: Device = "cpu",
    json: JsonTarget = None,
) -> None:
    """Read a text and predict what comes next: real passages near the predicted vector, the decoder's text
    for it, and the run's confidence. A run of several horizons gives each.

    Chunks are counted from 1 in what is printed, and from 0 in the JSON.
    """
    import numpy as np

    from nextvec.inference.predictor import open_predictor
    from nextvec.vectors import RawVectors

    vectors = vector or text_flags.VectorFlags()
    vectors.check()
    read, where = text_flags.read_text(text, run)
    predictor = open_predictor(run, device)
    count = text_flags.passage_count(predictor, decoder, nearest, 5)
    with text_flags.open_pipeline(predictor, encoder, decoder, passages=count > 0) as pipeline:
        found = pipeline.ahead(read, query=query, n=count, where=where)
    first = found[0].raw
    made = np.stack([passage.raw.values for passage in found])
    vectors.write(RawVectors(made, first.encoder, first.normalised))
    figures = {"run": str(run), "encoder": predictor.space.encoder["name"], "query": query}
    paragraphs = [describe_reading(found[0], predictor.name), *map(describe_prediction, found)]
    output("\n\n".join(paragraphs), {**figures, "predictions": [each.to_json() for each in found]}, json)


def describe_prediction(found: NextPassage) -> str:
    """One horizon: confidence, the decoder's text, real passages."""
    import numpy as np

    confidence = found.confidence
    sure = "not stated: this run was not trained to state any"
    if confidence is not None:
        sure = f"{confidence.value:.3f}, {CONFIDENCES[confidence.kind]}"
    ahead = "the next passage" if found.horizon == 1 else f"{found.horizon} passages ahead"
    lines = [
        f"{ahead[0].upper()}{ahead[1:]}: a vector of length {np.linalg.norm(found.raw.values):.3f}",
        fill(sure, "confidence  "),
    ]
    if found.decoded is not None:
        lines += describe_passage(found.decoded)
    return "\n".join([*lines, *listed(found.nearest)])


GUARDING, SNAPPING, SAMPLING = Group("Guard"), Group("Snapping"), Group("Sampling")


@Parameter(name="*")
@dataclass(frozen=True)
class RolloutFlags:
    """When a rollout stops, and what it reads on the way."""

    min_cosine: Annotated[
        float | None, flag("Stop when the cosine to the last chunk read falls below: drift.", group=GUARDING)
    ] = None
    max_repetition: Annotated[
        float, flag("Stop when the cosine to the step before rises above; 1 never stops.", group=GUARDING)
    ] = 0.999
    rescale: Annotated[
        bool,
        flag(
            "Bring every prediction to the mean length of the chunks read.",
            group=GUARDING,
            negative="--no-rescale",
        ),
    ] = True
    snap: Annotated[bool, flag("Pull predictions to the nearest real passage.", group=SNAPPING)] = False
    snap_threshold: Annotated[
        float | None, flag("From this cosine to it on (default: 0.6).", group=SNAPPING)
    ] = None
    snap_blend: Annotated[
        float | None, flag("Share of the passage in what is read next (default: 0.5).", group=SNAPPING)
    ] = None
    sample: Annotated[bool, flag("Draw every step; for generative runs.", group=SAMPLING)] = False
    seed: Annotated[int | None, flag("Of the draws (default: 0).", group=SAMPLING)] = None

    def settings(self) -> RolloutSettings:
        """As a rollout takes it. Raises ConfigError for what means nothing without --snap or --sample."""
        from nextvec.inference.rollout import Guard, RolloutSettings, SnapToCorpus

        snapping = {"threshold": self.snap_threshold, "blend": self.snap_blend}
        given = {name: value for name, value in snapping.items() if value is not None}
        if given and not self.snap:
            raise ConfigError("nothing is snapped", where=f"--snap-{min(given)}", remedy="add --snap")
        if self.seed is not None and not self.sample:
            raise ConfigError("nothing is drawn", where="--seed", remedy="add --sample")
        guard = Guard(self.min_cosine, self.max_repetition, self.rescale)
        snap, seed = SnapToCorpus(**given) if self.snap else None, (self.seed or 0) if self.sample else None
        return RolloutSettings(guard, snap, seed=seed)


def rollout(
    run: text_flags.Run = text_flags.PRETRAINED,
    *,
    steps: Annotated[int, flag("How far, in chunks.")] = 5,
    text: text_flags.TextFlags | None = None,
    query: text_flags.Query = None,
    flags: RolloutFlags | None = None,
    nearest: text_flags.PassageCount = None,
    decoder: text_flags.DecoderFlags | None = None,
    encoder: text_flags.EncoderFlags | None = None,
    vector: text_flags.VectorFlags | None = None,
    device: Device = "cpu",
    json: JsonTarget = None,
) -> None:
    """Continue a text step by step in vector space, each step reading those before it.

    The guard ends it where it drifts off or stands still; each step is printed as by `nextvec predict`.
    """
    from nextvec.inference.predictor import open_predictor

    vectors = vector or text_flags.VectorFlags()
    vectors.check()
    settings = (flags or RolloutFlags()).settings()
    if steps < 1:
        raise ConfigError(f"a rollout of {steps} steps", where="--steps", remedy="request 1 or more")
    read, where = text_flags.read_text(text, run)
    predictor = open_predictor(run, device)
    count = text_flags.passage_count(predictor, decoder, nearest, 1)
    wanted = count > 0 or settings.snap is not None
    with text_flags.open_pipeline(predictor, encoder, decoder, passages=wanted) as pipeline:
        found = pipeline.rollout(read, steps, settings, query=query, n=count, where=where)
    vectors.write(found.raw)
    figures = {"run": str(run), "encoder": predictor.space.encoder["name"], "query": query}
    output(describe_rollout(found, predictor.name, steps), {**figures, **found.to_json()}, json)


def describe_rollout(found: RolloutText, name: str, steps: int) -> str:
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


INDENT = 4
MOST_OF_LAST = 270


def describe_reading(found: NextPassage | RolloutText, name: str) -> str:
    """What was read, and where it ended."""
    many = f"{found.read} of {found.of} chunks" if found.read < found.of else f"{found.of} chunks"
    if found.of == 1:
        many = "1 chunk"
    last = shorten(found.last, MOST_OF_LAST, middle=True)
    return fill(f"{name} read {many}. The last one: {last}", rest="")


def listed(passages: Sequence[Passage]) -> list[str]:
    """Lines of real passages, numbered."""
    return [line for number, passage in enumerate(passages, 1) for line in describe_passage(passage, number)]


def describe_passage(passage: Passage, number: int | None = None) -> list[str]:
    """What it is and where it stands; its text below."""
    decoded = passage.decoded
    place = ""
    if passage.document is not None and passage.position is not None:
        place = f"  {passage.title or passage.document}, chunk {passage.position + 1}"
    odds = "" if passage.probability is None else f"  follows with {passage.probability:.3f}"
    scale = "cosine" if decoded.how == "retrieved" else "score"
    head = f"{decoded.how}{'' if number is None else f' {number}'}  {scale} {decoded.score:.3f}{odds}{place}"
    return [head, *wrapped(decoded.text)]


def wrapped(text: str) -> list[str]:
    return fill(" ".join(text.split()), " " * INDENT).splitlines()
