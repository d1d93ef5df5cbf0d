"""vec2text's published corrector as a decoder, in a process and with pins of its own (Morris, Kuleshov,
Shmatikov and Rush, 2023, "Text Embeddings Reveal (Almost) As Much As Text"): a first hypothesis, encoded
again and corrected by what its vector lacks."""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

from nextvec.corpus.layout import FloatArray
from nextvec.decoding.base import Decoded, Decoder, How
from nextvec.decoding.vec2text.setup import CHECK, KIND, DecoderFolder, Environment
from nextvec.errors import DecoderError

log = logging.getLogger("nextvec.decoding")

BATCH = 16
EMPTY = "…"


class Vec2Text(Decoder):
    """vec2text in a process of its own, started with the first vector. Close it, or use it in a `with`.

    One text a vector, whatever `n`. Its score is the cosine of the vector given and that of the text, encoded
    again by vec2text. Where vec2text writes nothing the text is an ellipsis, and that is logged.

    Args:
        folder: made by `nextvec decoder setup vec2text --out`.
        steps: of correction; 0 takes the first hypothesis.
        beam: texts kept at each step; the best by cosine survive.
        device: "auto" takes a GPU where torch finds one; or "cpu".
        timeout: seconds that loading, or decoding 16 vectors, may take.
        environment: folder of its packages; by default where `nextvec decoder setup vec2text` puts it.
    Raises:
        DecoderError: no decoder, weights that are missing or pickled, no environment, or an option that
            cannot be meant.
    """

    how: ClassVar[How] = "generated"

    def __init__(
        self,
        folder: str | Path,
        *,
        steps: int = 20,
        beam: int = 1,
        device: Literal["auto", "cpu"] = "auto",
        timeout: float = 600.0,
        environment: Path | None = None,
    ) -> None:
        _check(steps, beam, device, timeout)
        found = DecoderFolder.open(Path(folder))
        self.name = KIND
        self.encoder = str(found.encoder["fingerprint"])
        self.dimension = found.dimension
        self.steps, self.beam = steps, beam
        arguments = ("--decoder", str(found.folder.resolve()), "--device", device)
        self.worker = Environment.find(environment).worker(*arguments, timeout=timeout)

    def start(self) -> dict[str, Any]:
        """Load the models now rather than with the first vector; returns versions, dimension and device.

        Raises DecoderError.
        """
        hello = self.worker.start()
        if hello.get("dimension") != self.dimension:
            self.close()
            message = f"vec2text takes {hello.get('dimension')} dimensions, its folder has {self.dimension}"
            remedy = "make the decoder's folder again: nextvec decoder setup vec2text --out FOLDER"
            raise DecoderError(message, remedy=remedy)
        return hello

    def texts_of(self, values: FloatArray, n: int) -> list[list[Decoded]]:
        """One text for each row of values [N, D]. Raises DecoderError."""
        self.start()
        found: list[list[Decoded]] = []
        for start in range(0, len(values), BATCH):
            found += [[one] for one in self._decode(values[start : start + BATCH])]
        nothing = sum(some[0].text == EMPTY for some in found)
        if nothing:
            log.info("vec2text wrote nothing for %d of %d vectors: %s", nothing, len(found), EMPTY)
        return found

    def _decode(self, values: FloatArray) -> list[Decoded]:
        answer = self.worker.ask(
            {
                "vectors": base64.b64encode(values.astype("<f4").tobytes()).decode(),
                "count": len(values),
                "steps": self.steps,
                "beam": self.beam,
                "empty": EMPTY,
            }
        )
        texts, scores = answer.get("texts"), answer.get("scores")
        if not isinstance(texts, list) or not isinstance(scores, list) or len(texts) != len(values):
            message = f"vec2text's process gave no text for each of {len(values)} vectors"
            raise DecoderError(message, remedy=CHECK)
        return [Decoded(str(text), float(score), self.how) for text, score in zip(texts, scores, strict=True)]

    def close(self) -> None:
        """Stop the process; the next vector starts another."""
        self.worker.close()


def _check(steps: int, beam: int, device: str, timeout: float) -> None:
    if steps < 0 or beam < 1 or (beam > 1 and steps == 0):
        remedy = "give 0 or more steps and a beam of 1 or more; only with steps there is a beam"
        raise DecoderError(f"{steps} steps with a beam of {beam}", remedy=remedy)
    if device not in ("auto", "cpu") or not timeout > 0:
        remedy = "give auto or cpu, and a time-out above 0"
        raise DecoderError(f"device '{device}', time-out {timeout:g} s", remedy=remedy)
