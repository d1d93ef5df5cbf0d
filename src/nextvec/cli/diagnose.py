"""`nextvec diagnose`: the group of diagnoses. Each is a file of its own, loaded when it is used."""

from __future__ import annotations

from cyclopts import App

DIAGNOSES = {
    "data": "Is there anything to learn in a store, and can figures taken on it be trusted?",
    "model": "Where a trained model gains and loses, and whether it has collapsed.",
    "decoder": "Where text -> vector -> model -> vector -> text breaks: the A/B/C/D test.",
    "run": "What the history of a training run says: losses, gradients, collapse, over-fitting.",
}

diagnose = App(
    name="diagnose", help="Find out what is wrong with data, a model or a run.", help_format="plaintext"
)
for name, summary in DIAGNOSES.items():
    diagnose.command(f"nextvec.cli.diagnose_{name}:diagnose_{name}", name=name, help=summary)
