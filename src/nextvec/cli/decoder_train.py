"""`nextvec decoder train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, Sources, StorePath, names, output
from nextvec.config import from_dict, given, merge, parse_assignments, read_toml


@Parameter(name="*")
@dataclass(frozen=True)
class DecoderTrainFlags:
    """What is not given is left to the file, then to the defaults."""

    config: Annotated[Path | None, Parameter(help="A TOML file; flags win over it.")] = None
    tokens: Annotated[
        Literal["bpe", "bytes"] | None, Parameter(help="How text is cut: byte pairs, or bytes.")
    ] = None
    epochs: Annotated[int | None, Parameter(help="Passes over the training chunks.")] = None
    max_updates: Annotated[int | None, Parameter(help="Stop after so many updates.")] = None
    seconds: Annotated[float | None, Parameter(help="Stop after so many seconds of training.")] = None
    lr: Annotated[float | None, Parameter(help="Highest learning rate.")] = None
    sources: Sources = None
    split_file: Annotated[Path | None, Parameter(help="JSON with train, validation, test document ids.")] = (
        None
    )
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, Parameter(help="Where to train.")] = None
    seed: Annotated[int | None, Parameter(help="Of the weights, the batches and the dropout.")] = None
    set: Annotated[
        tuple[str, ...], Parameter(help="Any other key, as KEY=VALUE: --set network.layers=6", negative=())
    ] = ()

    def layers(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration file and the flags, as nested dictionaries. Raises ConfigError."""
        flags = {
            "tokens": {"kind": self.tokens},
            "optim": {
                "epochs": self.epochs,
                "max_updates": self.max_updates,
                "max_seconds": self.seconds,
                "lr": self.lr,
            },
            "data": {
                "sources": list(names(self.sources)) or None,
                "split": {"file": None if self.split_file is None else str(self.split_file.resolve())},
            },
            "runtime": {"device": self.device, "seed": self.seed},
        }
        file = read_toml(self.config) if self.config is not None else {}
        return file, merge(given(flags), parse_assignments(self.set))


def decoder_train(
    store: StorePath,
    *,
    out: Annotated[Path, Parameter(help="Folder of the decoder.")],
    flags: DecoderTrainFlags | None = None,
    resume: Annotated[bool, Parameter(negative=(), help="Go on with the training in --out.")] = False,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Train a text decoder on a store's own pairs of vector and text.

    It learns from the training documents; the best epoch on the validation documents is kept. It takes raw
    vectors of the store's encoder and writes text that stood nowhere.
    """
    from nextvec.corpus.store import Store
    from nextvec.decoding.inverter import InverterConfig, train_inverter

    flags = flags or DecoderTrainFlags()
    file, set_here = flags.layers()
    config = None
    if file or set_here or not resume:
        config = from_dict(InverterConfig, merge(file, set_here), where=flags.config or "flags")
    result = train_inverter(Store.open(store), config, out, resume=resume, quiet=quiet)
    text = (
        f"inverter: validation loss {result.loss:.4f} nats a token ({result.loss_shuffled:.4f} with the "
        f"vectors of other chunks) in epoch {result.epoch} of {result.epochs} ({result.stopped})\n"
        f"{result.parameters:,} parameters, {result.updates:,} updates, {result.tokens:,} tokens, "
        f"{result.tokens / max(result.seconds, 1e-9):,.0f} tokens/s, {result.seconds:.0f} s\n"
        f"decoder: {result.folder}\n"
        f"judge it: nextvec decoder evaluate {result.folder} --store {store}"
    )
    output(text, vars(result), json)
