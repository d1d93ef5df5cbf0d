"""`nextvec serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter, validators

from nextvec.cli.common import names
from nextvec.cli.texts import PRETRAINED, EncoderFlags, open_text_reader
from nextvec.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from nextvec.serving.settings import Settings

LISTENING, SHARING, LIMITS = Group("Where"), Group("Which model answers"), Group("Limits")
POSITIVE = validators.Number(gt=0)


@Parameter(name="*", group=LISTENING)
@dataclass(frozen=True)
class ListenFlags:
    host: Annotated[str, Parameter(help="This machine only by default; 0.0.0.0 for every network.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 8000
    api_key_file: Annotated[
        Path | None,
        Parameter(help="Keys that open it, one a line; the variable NEXTVEC_API_KEY gives one more."),
    ] = None
    allowed_hosts: Annotated[
        str | None,
        Parameter(
            help="Names that it answers to, separated by commas (default: this machine's where it listens to "
            "this machine only and has no key, else any)."
        ),
    ] = None
    cors_origins: Annotated[
        str | None,
        Parameter(help="Pages that may send requests, by commas (default: only its own)."),
    ] = None
    no_log: Annotated[bool, Parameter(negative=(), help="No line of JSON a request on standard error.")] = (
        False
    )


@Parameter(name="*", group=SHARING)
@dataclass(frozen=True)
class ShareFlags:
    default: Annotated[str | None, Parameter(help="This one (default: the first).")] = None
    split: Annotated[
        str | None, Parameter(help="Shares, as in a=0.9,b=0.1; a client's X-Sticky-Key keeps its variant.")
    ] = None


@Parameter(name="*", group=LIMITS)
@dataclass(frozen=True)
class LimitFlags:
    """What bounds it; `docs/serving.md` says how to choose."""

    queue: Annotated[int | None, Parameter(help="Requests on vectors under way at most.")] = None
    max_wait_ms: Annotated[
        float | None, Parameter(help="Who would wait longer is refused at once.", validator=POSITIVE)
    ] = None
    max_batch: Annotated[int | None, Parameter(help="Windows that a model answers together.")] = None
    batch_wait_ms: Annotated[
        float | None, Parameter(help="How long a free model waits for expected others at most.")
    ] = None
    max_body_mib: Annotated[float | None, Parameter(help="Of a request.", validator=POSITIVE)] = None
    client_sessions: Annotated[
        int | None, Parameter(help="Streaming sessions of one API key, or without keys of one address.")
    ] = None
    work_timeout: Annotated[float | None, Parameter(help="Seconds until an answer is given up.")] = None
    grace: Annotated[float | None, Parameter(help="Seconds to finish what was accepted, at the end.")] = None


def serve(
    *runs: Annotated[
        str,
        Parameter(
            help="A run folder, a hub id or an export; NAME=RUN serves it under a name (default: the model "
            "that comes with the package)."
        ),
    ],
    store: Annotated[Path | None, Parameter(help="Whose passages are found for texts.")] = None,
    index: Annotated[
        str | None, Parameter(help="Where they are searched, as in nextvec retrieve (default: exact).")
    ] = None,
    decoder: Annotated[
        str, Parameter(help="nearest, the folder of a trained decoder, or vec2text:FOLDER.")
    ] = "nearest",
    engine: Annotated[
        Literal["eager", "compiled", "onnx", "openvino"] | None,
        Parameter(help="What computes (default: eager for a run, an export's own for an export)."),
    ] = None,
    device: Annotated[Literal["cpu", "cuda", "mps"], Parameter(help="Where runs predict.")] = "cpu",
    threads: Annotated[int, Parameter(help="Of a model's computation.", validator=POSITIVE)] = 1,
    token_vocabulary: Annotated[
        str | None,
        Parameter(
            help="Whose ids token arrays hold: encoder, or a .tiktoken file (default: cl100k_base, as "
            "OpenAI's clients send them, where tiktoken keeps it)."
        ),
    ] = None,
    encoder: EncoderFlags | None = None,
    listen: ListenFlags | None = None,
    share: ShareFlags | None = None,
    limits: LimitFlags | None = None,
) -> None:
    """Serve models over HTTP, with a page to try them on, until SIGTERM or Ctrl-C; then finish what was
    accepted. The routes are described at /openapi.json.
    """
    runs = runs or (str(PRETRAINED),)
    if index is not None and store is None:
        raise ConfigError("an index of no store", where="--index", remedy="give --store too")
    _check_installed()
    import sys
    from contextlib import ExitStack
    from functools import partial

    import torch

    from nextvec.serving.app import create_app
    from nextvec.serving.lifecycle import listen as open_socket
    from nextvec.serving.lifecycle import serve as answer
    from nextvec.serving.models import (
        ServedModels,
        ServingConfig,
        check_shares,
        named_models,
        open_models,
        shares,
    )
    from nextvec.serving.tokens import TokenVocabulary

    tokens = TokenVocabulary(token_vocabulary)
    listen, share = listen or ListenFlags(), share or ShareFlags()
    settings = _settings(listen, limits or LimitFlags())
    read = partial(open_text_reader, flags=encoder)
    wanted = ServingConfig(named_models(runs), device, engine, threads, store, index, decoder, read)
    split = shares(share.split)
    check_shares(list(wanted.models), share.default, split)
    torch.set_num_threads(threads)
    with ExitStack() as held, open_socket(settings) as opened:
        models = ServedModels(open_models(wanted, held), share.default, split)
        app = create_app(settings, models, None if listen.no_log else sys.stderr.buffer, tokens)
        answer(app, opened, lambda url: print(f"serving {', '.join(models.names)} at {url}", flush=True))


def _check_installed() -> None:
    from importlib.util import find_spec

    for package in ("fastapi", "uvicorn", "httptools", "orjson", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingDependencyError(
                f"serving needs {package}", where="nextvec serve", remedy="pip install nextvec[serve]"
            )


def _settings(listen: ListenFlags, limits: LimitFlags) -> Settings:
    """Every flag that was given over the defaults."""
    from nextvec.serving.settings import MIB, Settings, api_keys

    def scaled(value: float | None, unit: float) -> float | None:
        return None if value is None else value * unit

    body = scaled(limits.max_body_mib, MIB)
    given = {
        "queue": limits.queue,
        "max_wait": scaled(limits.max_wait_ms, 1e-3),
        "max_batch": limits.max_batch,
        "batch_wait": scaled(limits.batch_wait_ms, 1e-3),
        "max_body": None if body is None else int(body),
        "client_sessions": limits.client_sessions,
        "work_timeout": limits.work_timeout,
        "grace": limits.grace,
    }
    return Settings(
        host=listen.host,
        port=listen.port,
        api_keys=api_keys(listen.api_key_file),
        allowed_hosts=names(listen.allowed_hosts),
        cors_origins=names(listen.cors_origins),
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
