"""`nextvec predict`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

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
from nextvec.cli.verdicts import WIDTH

if TYPE_CHECKING:
    from nextvec.decoding.base import NextPassage

CONFIDENCES = {
    "continuation": "that it follows here rather than come from another document, at even odds. Calibrated "
    "on true next chunks and random ones: a passage picked for its closeness looks better than it is",
    "agreement": "mean cosine between 32 samples of what may follow: no probability",
}


def predict(
    run: Annotated[Path, Parameter(help="A run folder, or an export of one.")],
    *,
    text: TextFlags | None = None,
    query: Query = None,
    nearest: PassageCount = 5,
    decoder: DecoderFlags | None = None,
    encoder: EncoderFlags | None = None,
    vector: VectorFlags | None = None,
    device: Annotated[Literal["cpu", "cuda", "mps"], Parameter(help="Where the model predicts.")] = "cpu",
    json: JsonTarget = None,
) -> None:
    """Read a text and tell what comes next: real passages near the predicted vector, the decoder's text for
    it, and how sure the run is. A run of several horizons tells each.
    """
    import numpy as np

    from nextvec.inference.predictor import open_predictor
    from nextvec.vectors import RawVectors

    vectors = vector or VectorFlags()
    vectors.check()
    read, where = read_text(text)
    predictor = open_predictor(run, device)
    with open_pipeline(predictor, encoder, decoder, passages=nearest > 0) as pipeline:
        found = pipeline.ahead(read, query=query, n=nearest, where=where)
    first = found[0].raw
    made = np.stack([passage.raw.values for passage in found])
    vectors.write(RawVectors(made, first.encoder, first.normalised))
    figures = {"run": str(run), "encoder": predictor.space.encoder["name"], "query": query}
    output(
        "\n\n".join([describe_reading(found[0], predictor.name), *map(describe, found)]),
        {**figures, "predictions": [passage.to_json() for passage in found]},
        json,
    )


def describe(found: NextPassage) -> str:
    """One horizon: confidence, the decoder's text, real passages."""
    import numpy as np

    said = found.confidence
    sure = "not stated: this run was not trained to state any"
    if said is not None:
        sure = f"{said.value:.3f}, {CONFIDENCES[said.kind]}"
    ahead = "the next passage" if found.horizon == 1 else f"{found.horizon} passages ahead"
    lines = [
        f"{ahead[0].upper()}{ahead[1:]} (predicted vector of length {np.linalg.norm(found.raw.values):.3f})",
        textwrap.fill(f"confidence  {sure}", WIDTH, subsequent_indent=" " * 12),
    ]
    if found.decoded is not None:
        lines += describe_passage(found.decoded)
    return "\n".join([*lines, *listed(found.nearest)])
