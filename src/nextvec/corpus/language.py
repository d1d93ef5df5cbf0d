"""Which language a text seems to be in: enough to notice a chunker that was told another one."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nextvec.corpus.encoders.base import WORTH_SAYING, unknown_share
from nextvec.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from nextvec.corpus.chunking import Chunker
    from nextvec.corpus.encoders import Encoder

log = logging.getLogger("nextvec.corpus")

FEWEST_WORDS = 50
SHARE = 0.1
"""Of the words, those that tell a language: running text has 20 to 30 %, of another language 1 to 3."""
TWICE = 2.0
_WORD = re.compile(r"[^\W\d_]+")
# Frequent short words, left out where two of these languages share them.
_TELLING = {
    "en": "the of and to in is that it was for with as be this are from by which",
    "de": "der die und das ist nicht ein eine mit dem den des zu auf für auch sich wird",
    "fr": "le les et des est une du dans que qui pour pas sur au avec ce sont il",
    "es": "el los las y una por con para como más pero su al lo es del",
    "it": "il di che è della per non sono nel gli alla dei anche si",
    "nl": "het een van en niet zijn dat voor op te met ook aan werd",
    "pt": "o os do da em um uma não com para mais dos ao foi são",
    "sv": "och att det som är på av för inte den till ett har",
    "pl": "i w na nie się jest do że z oraz przez jak od",
}
_WORDS = {language: frozenset(words.split()) for language, words in _TELLING.items()}


def guess_language(texts: Iterable[str]) -> str | None:
    """ISO 639 code of one of nine languages of Latin script; None where no one stands out."""
    words = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    total = words.total()
    if total < FEWEST_WORDS:
        return None
    found = sorted(
        ((sum(words[word] for word in telling), language) for language, telling in _WORDS.items()),
        reverse=True,
    )
    (best, language), (second, _) = found[:2]
    return language if best > SHARE * total and best > TWICE * second else None


def check_language(encoder: Encoder, chunker: Chunker, sample: Sequence[str], most_unknown: float) -> None:
    """Say where texts are in another language than the encoder or the chunker was made for.

    Raises:
        ConfigError: `most_unknown` is no share.
        EncoderError: more than `most_unknown` of the sample's tokens are unknown to the encoder.
    """
    if not 0 <= most_unknown <= 1:
        raise ConfigError(f"{most_unknown:g} is no share", where="--most-unknown", remedy="give 0 to 1")
    share = unknown_share(encoder, sample)
    said = f"{100 * (share or 0):.0f} % of the tokens are unknown to the encoder '{encoder.name}'"
    other = "choose one made for their language: --encoder NAME (a hub name or a folder), or --endpoint URL"
    if share is not None and share > most_unknown:
        raise EncoderError(
            said,
            where="texts",
            remedy=f"{other}; or go on as they are with --most-unknown {share + 0.05:.1f}",
        )
    if share is not None and share > WORTH_SAYING:
        log.warning("%s; %s", said, other)
    told = chunker.describe().get("language")
    guessed = guess_language(sample)
    if told is not None and guessed is not None and guessed != told:
        log.warning(
            "the texts look like '%s' and are cut into sentences by the rules of '%s': "
            "--chunk-option language=%s",
            guessed,
            told,
            guessed,
        )
