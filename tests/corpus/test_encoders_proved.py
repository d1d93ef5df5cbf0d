"""A server's encoder that is shown to be one that is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus.ingesting import Run
from nextvec.corpus.encoders.http import PROOF, ProvedEncoder
from nextvec.corpus.reading import Space, TextReader
from nextvec.corpus.store import Store
from nextvec.errors import EncoderMismatchError
from nextvec.vectors import unit

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture
def served(text_encoder: type) -> Callable[..., Any]:
    """served(change): an encoder of another name and fingerprint, with changed vectors of the local one."""

    def make(change: Change = lambda vectors: vectors, *, unit_length: bool = False) -> Any:
        class Served(text_encoder):  # type: ignore[misc]
            name, path, unit, max_tokens = "theirs", "http openai", unit_length, None

            def encode(self, texts: Sequence[str], *rest: Any) -> np.ndarray:
                return change(super().encode(texts, *rest))

            def count_tokens(self, texts: Sequence[str]) -> None:
                """Only the server knows."""

        made = Served()
        made.fingerprint = {"name": "theirs", "kind": "openai", "fingerprint": "s" * 64}
        made.dimension = made.encode(["a"]).shape[1]
        return made

    return make


def test_32_texts_of_all_lengths_are_compared() -> None:
    assert len(PROOF) == len(set(PROOF)) == 32
    assert min(map(len, PROOF)) < 5
    assert len(PROOF[-1].split()) > 512


def test_the_same_weights_share_a_space(
    run: Run, served: Callable[..., Any], text_encoder: type, tmp_path: Path
) -> None:
    noisy = served(lambda v: v + np.float32(1e-3) * np.sign(v))
    proved = ProvedEncoder(noisy, text_encoder())
    assert proved.fingerprint["fingerprint"] == text_encoder().fingerprint["fingerprint"]
    assert proved.fingerprint["served"]["fingerprint"] == "s" * 64
    assert proved.count_tokens(["a b"]) == [(2, 0)]
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(f"Paragraph {name}.\n\nAnother one of {name}.")
    run(tmp_path / "a")
    assert run(tmp_path / "b", encoder=proved).documents == 1
    store = Store.open(tmp_path / "store")
    assert [shard["path"] for shard in store.info["shards"]] == [
        "cpu float32",
        f"http openai as test (cosine {proved.least:.5f} at least)",
    ]
    assert TextReader(Space.of(store), proved).encode(["a"]).encoder == store.encoder["fingerprint"]
    with pytest.raises(EncoderMismatchError, match="same_as=NAME"):
        TextReader(Space.of(store), noisy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:, ::-1].copy(), "the server's 'theirs' is not 'test': the cosine of their vectors is"),
        (lambda v: v[:, :4], "gives 4 dimensions, 'test' 8"),
        (lambda v: 2 * v, "lengths 2.000 to 2.000 times theirs"),
    ],
)
def test_other_vectors_are_refused(
    served: Callable[..., Any], text_encoder: type, change: Change, message: str
) -> None:
    with pytest.raises(EncoderMismatchError, match=message):
        ProvedEncoder(served(change), text_encoder())


def test_unit_vectors_are_not_raw_ones(served: Callable[..., Any], text_encoder: type) -> None:
    proved = ProvedEncoder(served(unit, unit_length=True), text_encoder())
    described = proved.fingerprint
    assert (
        TextReader(Space(described, {"kind": "imported"}, normalised=True), proved).encode(["a"]).normalised
    )
    with pytest.raises(EncoderMismatchError, match="unit length, and raw ones are needed"):
        TextReader(Space(described, {"kind": "imported"}, normalised=False), proved)
