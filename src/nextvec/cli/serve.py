"""`nextvec serve`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter, validators

from nextvec.cli.common import flag, names
from nextvec.cli.text_flags import PRETRAINED, EncoderFlags, open_text_reader
from nextvec.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from nextvec.serving.settings import Settings

LISTENING, SHARING, LIMITS = Group("Where"), Group("Which model answers"), Group("Limits")
POSITIVE = validators.Number(gt=0)


@Parameter(name="*", group=LISTENING)
@dataclass(frozen=True)
class ListenFlags:
    host: Annotated[str, flag("This machine only by default; 0.0.0.0 for every network.")] = "127.0.0.1"
    port: Annotated[int, flag("0 takes a free one.")] = 8000
    api_key_file: Annotated[
        Path | None, flag("Keys that open it, one a line; the variable NEXTVEC_API_KEY gives one more.")
    ] = None
    allowed_hosts: Annotated[
        str | None,
        flag(
            "Names that it answers to, separated by commas (default: this machine's where it listens to "
            "this machine only and has no key, else any)."
        ),
    ] = None
    cors_origins: Annotated[
        str | None, flag("Pages that may send requests, by commas (default: only its own).")
    ] = None
    no_log: Annotated[bool, flag("No line of JSON a request on standard error.")] = False


@Parameter(name="*", group=SHARING)
@dataclass(frozen=True)
class ShareFlags:
    default: Annotated[str | None, flag("This one (default: the first).")] = None
    split: Annotated[
        str | None, flag("Shares, as in a=0.9,b=0.1; a client's X-Sticky-Key keeps its variant.")
    ] = None
    strategy: Annotated[
        str | None,
        flag(
            "How passages of --store are found where a request does not say, as in "
            "a=ranked,b=last-mean+passage (default: as nextvec retrieve)."
        ),
    ] = None


@Parameter(name="*", group=LIMITS)
@dataclass(frozen=True)
class LimitFlags:
    """What bounds it; `docs/serving.md` says how to choose."""

    queue: Annotated[int | None, flag("Requests on vectors under way at most.")] = None
    max_wait_ms: Annotated[
        float | None, flag("Who would wait longer is refused at once.", validator=POSITIVE)
    ] = None
    max_batch: Annotated[int | None, flag("Windows that a model answers together.")] = None
    batch_wait_ms: Annotated[
        float | None, flag("How long a free model waits for expected others at most.")
    ] = None
    max_body_mib: Annotated[float | None, flag("Of a request.", validator=POSITIVE)] = None
    client_sessions: Annotated[
        int | None, flag("Streaming sessions of one API key, or without keys of one address.")
    ] = None
    work_timeout: Annotated[float | None, flag("Seconds until an answer is given up.")] = None
    grace: Annotated[float | None, flag("Seconds to finish what was accepted, at the end.")] = None


def serve(
    *runs: Annotated[
        str,
        flag(
            "A run folder, a hub id or an export; NAME=RUN serves it under a name (default: the model "
            "that comes with the package)."
        ),
    ],
    store: Annotated[Path | None, flag("Whose passages are found for texts.")] = None,
    index: Annotated[
        str | None, flag("Where they are searched, as in nextvec retrieve (default: exact).")
    ] = None,
    decoder: Annotated[
        str, flag("nearest, the folder of a trained decoder, or vec2text:FOLDER.")
    ] = "nearest",
    engine: Annotated[
        Literal["eager", "compiled", "onnx", "openvino"] | None,
        flag("What computes (default: eager for a run, an export's own for an export)."),
    ] = None,
    device: Annotated[Literal["cpu", "cuda", "mps"], flag("Where runs predict.")] = "cpu",
    threads: Annotated[int, flag("Of a model's computation.", validator=POSITIVE)] = 1,
    token_vocabulary: Annotated[
        str | None,
        flag(
            "Whose ids token arrays hold: encoder, or a .tiktoken file (default: cl100k_base, as "
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
    listen, share = listen or ListenFlags(), share or ShareFlags()
    _check_store(store, index, share.strategy)
    _check_installed()
    import torch

    from nextvec.serving import served_models as serving
    from nextvec.serving.app import create_app
    from nextvec.serving.lifecycle import listen as open_socket
    from nextvec.serving.lifecycle import serve as answer
    from nextvec.serving.token_input import TokenVocabulary

    tokens = TokenVocabulary(token_vocabulary)
    settings = _settings(listen, limits or LimitFlags())
    read = partial(open_text_reader, flags=encoder)
    named = serving.named_models(runs or (str(PRETRAINED),))
    split = serving.shares(share.split)
    serving.check_shares(list(named), share.default, split)
    chosen = serving.strategies(share.strategy, list(named))
    wanted = serving.ServingConfig(named, device, engine, threads, store, index, decoder, chosen, read)
    torch.set_num_threads(threads)
    with ExitStack() as held, open_socket(settings) as opened:
        models = serving.ServedModels(serving.open_models(wanted, held), share.default, split)
        app = create_app(settings, models, None if listen.no_log else sys.stderr.buffer, tokens)
        answer(app, opened, lambda url: print(f"serving {', '.join(models.names)} at {url}", flush=True))


def _check_store(store: Path | None, index: str | None, strategy: str | None) -> None:
    """Raises ConfigError: no store for flags that mean nothing without one."""
    if index is not None and store is None:
        raise ConfigError("an index of no store", where="--index", remedy="give --store too")
    if strategy is not None and store is None:
        raise ConfigError("a strategy for no store", where="--strategy", remedy="give --store too")


def _check_installed() -> None:
    for package in ("fastapi", "uvicorn", "httptools", "orjson", "prometheus_client"):
        if find_spec(package) is None:
            message, remedy = f"serving needs {package}", "pip install nextvec[serve]"
            raise MissingDependencyError(message, where="nextvec serve", remedy=remedy)


def _settings(listen: ListenFlags, limits: LimitFlags) -> Settings:
    """Every flag that was given over the defaults."""
    from nextvec.serving.settings import MIB, Settings, api_keys

    units = {"max_wait_ms": ("max_wait", 1e-3), "batch_wait_ms": ("batch_wait", 1e-3)}
    bounds: dict[str, Any] = {}
    for given, value in asdict(limits).items():
        name, unit = units.get(given, (given, 1))
        if value is not None:
            bounds[name] = value * unit
    if "max_body_mib" in bounds:
        bounds["max_body"] = int(bounds.pop("max_body_mib") * MIB)
    return Settings(
        host=listen.host,
        port=listen.port,
        api_keys=api_keys(listen.api_key_file),
        allowed_hosts=names(listen.allowed_hosts),
        cors_origins=names(listen.cors_origins),
        **bounds,
    )
