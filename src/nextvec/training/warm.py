"""Warm start: a new run that begins with the weights of another, on any store of the same encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nextvec.checkpoint import CONFIG
from nextvec.config import to_dict
from nextvec.corpus.store import Store
from nextvec.data.splits import split_documents
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.data.windows import Windows
from nextvec.errors import ConfigError, EncoderMismatchError, RunError
from nextvec.models.base import NextVectorModel
from nextvec.models.saving import PRETRAINED, WEIGHTS, check_tensors, load_model, locate
from nextvec.training.build import DECIDED_BY, Start, build_model, input_scale
from nextvec.training.config import TrainConfig, read_config

ALSO = (CONFIG, TRAINED_ON)


def inherited(source: str | Path, store: Store) -> dict[str, Any]:
    """What a run started from `source` takes over where nothing else is asked, as a layer of configuration.

    Of a run folder that is its model, data, loss and optim. What names documents of its store (sources, their
    mixing, a split file) only holds on that store. Of a folder without a configuration of training, such as
    the model that comes with the package, it is the network alone.

    Raises:
        RunError: no run there.
        ConfigError: its configuration cannot be read.
    """
    folder = locate(source, also=ALSO)
    model, info = load_model(folder)
    if not (folder / CONFIG).is_file():
        options = {key: value for key, value in to_dict(model.config).items() if key != "d_embed"}
        return {"model": {"name": model.architecture, "options": options}}
    held = to_dict(read_config(folder / CONFIG))
    held.pop("runtime")
    held["model"].pop("pretrained", None)
    if info.get("training", {}).get("store") != str(store.path.resolve()):
        for key in ("sources", "mixing"):
            held["data"].pop(key, None)
        held["data"]["split"].pop("file", None)
    return held


def warm_start(source: str | Path, store: Store, config: TrainConfig) -> Start:
    """The weights of a run as the start of another, whose network has the same sizes.

    What was fitted and not learned (baseline, normaliser) comes along; the scale is that of the vectors now
    trained on. What the source was trained on counts as seen by the new run too.

    Args:
        source: a run folder, a Hub id, or "pretrained", the model that comes with the package.
        config: of the new run.
    Raises:
        RunError: no run there, a damaged one, or one that does not say what it was trained on.
        ConfigError: the new run's network has other sizes. EncoderMismatchError: other vectors.
        SplitError: as `split_documents`.
    """
    folder = locate(source, also=ALSO)
    model, info = load_model(folder)
    _check_encoder(info, store, source)
    if config.model.name != model.architecture:
        raise ConfigError(
            f"is {config.model.name}, and the run to start from is {model.architecture}",
            where="model.name",
            remedy="leave --model out: --init-from names it",
        )
    with torch.device("meta"):
        wanted = build_model(store, config)
    _check_sizes(model, wanted, folder)
    seen = TrainedOn.load(folder / TRAINED_ON)
    split = split_documents(store, config.data.split, config.data.sources)
    documents = Windows.of_documents(store.documents, split.train)
    model.scale.fill_(input_scale(store, documents, config.model.scaling))
    origin = {
        "run": str(source if str(source) == PRETRAINED else Path(source).resolve()),
        "method": "init-from",
    }
    return Start(model.state_dict(), origin, trained_on=seen)


def _check_encoder(info: Mapping[str, Any], store: Store, source: str | Path) -> None:
    made_for = info.get("encoder") or {}
    if made_for.get("fingerprint") != store.encoder["fingerprint"]:
        raise EncoderMismatchError(
            f"reads vectors of '{made_for.get('name', 'unknown')}', the store has those of "
            f"'{store.encoder.get('name', 'unknown')}'",
            where=source,
            remedy="start from a run of the same encoder, or leave --init-from out",
        )


def _check_sizes(model: NextVectorModel, wanted: NextVectorModel, folder: Path) -> None:
    """Raise ConfigError naming the first option that differs."""
    have, want = to_dict(model.config), to_dict(wanted.config)
    for key in sorted({*have, *want}):
        if have.get(key) != want.get(key):
            keep = "leave it as it is"
            if key in DECIDED_BY and key != "horizons":
                keep = f"give --set {DECIDED_BY[key]}={int(bool(have.get(key)))}"
            raise ConfigError(
                f"is {want.get(key)}, and the run to start from has {have.get(key)}",
                where=f"model.options.{key}",
                remedy=f"{keep}, or train without --init-from",
            )
    what = f"a new {model.architecture}"
    check_tensors(model.state_dict(), wanted.state_dict(), folder / WEIGHTS, what, RunError)
