"""Encoders: texts -> raw vectors, run here (`SentenceTransformerEncoder`) or by a server (`HttpEncoder`)."""

from __future__ import annotations

from nextvec.corpus.encoders.base import Advance, Encoder, EncoderConfig

__all__ = ["Advance", "Encoder", "EncoderConfig", "load_encoder"]


def load_encoder(config: EncoderConfig) -> Encoder:
    """Load the encoder, or reach the server. Raises EncoderError."""
    if config.endpoint is None:
        from nextvec.corpus.encoders.sentence_transformer import SentenceTransformerEncoder

        return SentenceTransformerEncoder(config)
    from nextvec.corpus.encoders.http import HttpEncoder, ProvedEncoder

    served = HttpEncoder(config)
    if config.same_as is None:
        return served
    return ProvedEncoder(served, load_encoder(EncoderConfig(config.same_as, precision="float32")))
