"""`nextvec decoder`: the group of its verbs. Each is a file of its own, loaded when it is used."""

from __future__ import annotations

from cyclopts import App

VERBS = {
    "train": "Train a text decoder on a store's own vectors and texts.",
    "evaluate": "Judge decoders on held-out documents, beside controls.",
    "setup": "Make the environment that vec2text runs in.",
}

decoder = App(name="decoder", help="Decoders from vectors to text.", help_format="plaintext")
for name, summary in VERBS.items():
    decoder.command(f"nextvec.cli.decoder_{name}:decoder_{name}", name=name, help=summary)
