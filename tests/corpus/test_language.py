"""What a language does to an ingest: unknown tokens, words without blanks, abbreviations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from corpus.ingesting import Run, write
from nextvec.corpus.chunking import ParagraphChunker, WordChunker
from nextvec.corpus.survey import check_language, guess_language
from nextvec.errors import ConfigError, EncoderError

THAI = "เรือออกจากท่าก่อนรุ่งสางและกลับมาในตอนเย็นพร้อมกับปลามากมายที่จับได้ในทะเลลึก"
LANGUAGES = {
    "en": "The ships leave the harbour before dawn and are back in the evening with all of the fish that "
    "they caught in the deep sea, which is then sold by the fishermen on a market that is held for all. ",
    "de": "Die Schiffe verlassen den Hafen vor dem Morgen und sind am Abend mit den Fischen wieder da, die "
    "auf der See gefangen wurden; der Laden in der Hauptstr. 5 ist auch nicht weit und wird gern besucht. ",
    "fr": "Les bateaux quittent le port avant la nuit et sont de retour dans la soirée avec des poissons qui "
    "sont pour le marché; il est ouvert et les pêcheurs ne sont pas loin sur une des places du port. ",
    "es": "Los barcos salen del puerto y vuelven por la tarde con los peces para el mercado, pero una parte "
    "de las redes es para el pueblo, como lo es su pan, y más de una familia los compra con gusto. ",
}


class KnowsPart:
    """An encoder to which a share of its tokens is unknown."""

    name = "half"

    def __init__(self, share: float) -> None:
        self.share = share

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(100, round(100 * self.share)) for _ in texts]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_told_by_its_small_words(language: str) -> None:
    assert guess_language([LANGUAGES[language]] * 3) == language
    assert guess_language([THAI, "1 2 3", "Nouns. Names. Titles."]) is None


def test_another_language_than_the_chunker_was_told_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_language(KnowsPart(0), WordChunker(), [LANGUAGES["de"]] * 3, 0.2)
        assert "look like 'de'" in caplog.text
        assert "--chunk-option language=de" in caplog.text
        caplog.clear()
        check_language(KnowsPart(0), WordChunker(language="de"), [LANGUAGES["de"]] * 3, 0.2)
        check_language(KnowsPart(0), WordChunker(), [LANGUAGES["en"]] * 3, 0.2)
        check_language(KnowsPart(0), ParagraphChunker(), [THAI] * 3, 0.2)
        assert caplog.text == ""


def test_unknown_tokens_are_said_and_many_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_language(KnowsPart(0.1), WordChunker(), [THAI], 0.2)
    assert "10 % of the tokens are unknown to the encoder 'half'; choose one" in caplog.text
    with pytest.raises(EncoderError, match=r"70 % of the tokens .*--most-unknown 0\.8"):
        check_language(KnowsPart(0.7), WordChunker(), [THAI], 0.2)
    check_language(KnowsPart(0.7), WordChunker(), [THAI], 0.8)
    with pytest.raises(ConfigError, match="--most-unknown"):
        check_language(KnowsPart(0.7), WordChunker(), [THAI], 1.5)


def test_an_ingest_in_an_unknown_language_is_refused_before_anything_is_encoded(
    run: Run, tmp_path: Path, text_encoder: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_encoder, "count_tokens", lambda _, texts: [(10, 7) for _ in texts])
    source, encoder = write(tmp_path / "x.jsonl", [{"id": "x", "text": THAI}]), text_encoder()
    with pytest.raises(EncoderError, match="70 % of the tokens are unknown"):
        run(source, encoder=encoder)
    assert encoder.calls == 0
    assert run(source, encoder=encoder, most_unknown=0.7).unknown == pytest.approx(0.7)


def test_scripts_without_blanks_have_a_budget_of_words_too() -> None:
    text = THAI * 40  # 3,080 characters, some 700 words
    chunks = WordChunker().chunk(text)
    assert "".join(chunk.gap + chunk.text for chunk in chunks) == text
    assert len(chunks) > 6
    assert max(len(chunk.text) for chunk in chunks) < 500
    assert not any(chunk.text[0] in "\u0e31\u0e34\u0e35\u0e38\u0e48\u0e49" for chunk in chunks)
