"""Encoders: texts -> raw vectors, run here (`SentenceTransformerEncoder`) or by a server (`HttpEncoder`)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from nextvec.corpus.encoders.base import Advance, Encoder
from nextvec.errors import EncoderError

__all__ = ["Advance", "Encoder", "EncoderConfig", "load_encoder"]

_LOCAL_ONLY = ("device", "precision", "max_tokens")
_SERVER_ONLY = (
    "kind",
    "key_variable",
    "timeout",
    "retries",
    "base64_response",
    "role",
    "query_role",
    "same_as",
)


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and how it runs. With an `endpoint` it is a server's, else it runs here.

    Attributes:
        name: all-MiniLM-L6-v2 (packaged), a folder or a hub name; with `endpoint` the server's model name.
        endpoint: address of an OpenAI-compatible or TEI server.
        kind: "openai" or "tei"; by default from the address.
        key_variable: environment variable with the server's API key.
        device, precision, max_tokens: see `SentenceTransformerEncoder`; not for servers.
        prompt: put before every text (a passage's); query_prompt: before a query in its place.
        dimensions: vectors cut to so many numbers, where the encoder was trained for that.
        timeout, retries, base64_response, role, query_role: see `HttpEncoder`.
        same_as: an encoder that is here and that the server is shown to be (`ProvedEncoder`).
        batch_size: texts run, or sent, together.
    """

    name: str = "all-MiniLM-L6-v2"
    endpoint: str | None = None
    kind: str | None = None
    key_variable: str | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 32
    max_tokens: int | None = None
    prompt: str | None = None
    query_prompt: str | None = None
    timeout: float = 60.0
    retries: int = 5
    dimensions: int | None = None
    base64_response: bool = False
    role: str | None = None
    query_role: str | None = None
    same_as: str | None = None

    def __post_init__(self) -> None:
        idle = _LOCAL_ONLY if self.endpoint is not None else _SERVER_ONLY
        for field in fields(self):
            if field.name in idle and getattr(self, field.name) != field.default:
                kind = "a server's encoder" if self.endpoint is not None else "an encoder that runs here"
                raise EncoderError(f"'{field.name}' means nothing to {kind}", remedy="leave it out")


def load_encoder(config: EncoderConfig) -> Encoder:
    """Load the encoder, or reach the server. Raises EncoderError."""
    if config.endpoint is None:
        from nextvec.corpus.encoders.sentence_transformer import SentenceTransformerEncoder

        return SentenceTransformerEncoder(
            config.name,
            device=config.device,
            precision=config.precision,
            batch_size=config.batch_size,
            max_tokens=config.max_tokens,
            prompt=config.prompt,
            query_prompt=config.query_prompt,
            dimensions=config.dimensions,
        )
    from nextvec.corpus.encoders.http import HttpEncoder

    served = HttpEncoder(
        config.endpoint,
        config.name,
        kind=config.kind,
        key_variable=config.key_variable,
        batch_size=config.batch_size,
        timeout=config.timeout,
        retries=config.retries,
        dimensions=config.dimensions,
        base64_response=config.base64_response,
        prompt=config.prompt,
        query_prompt=config.query_prompt,
        role=config.role,
        query_role=config.query_role,
    )
    if config.same_as is None:
        return served
    from nextvec.corpus.encoders.proved import ProvedEncoder

    return ProvedEncoder(served, load_encoder(EncoderConfig(config.same_as, precision="float32")))
