"""Models fetched from the hub, and what of a model's folder may be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nextvec.errors import NextvecError

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", *_PICKLED]


def fetch(name: str, error: type[NextvecError], *, what: str, remedy: str) -> Path:
    """The folder of a hub model, downloaded once: configurations, tokenizer files and safetensors.

    Raises:
        error: saying that `what` cannot be fetched, why, and `remedy`.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        HfHubHTTPError,
        HFValidationError,
        httpx.HTTPError,
        OSError,
    ) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise error(f"{what} '{name}' cannot be fetched from the hub ({reason})", remedy=remedy) from None


def refuse_pickles(folder: Path, weights: Sequence[Path], error: type[NextvecError]) -> None:
    """Raise `error` where a folder holds pickled weights that no safetensors file among `weights` stands
    beside."""
    pickled = sorted(f for pattern in _PICKLED for f in folder.rglob(pattern))
    alone = [f for f in pickled if not any(w.parent == f.parent for w in weights)]
    if alone:
        raise error(
            "holds pickled weights, which are never read",
            where=alone[0],
            remedy="convert them to safetensors",
        )
