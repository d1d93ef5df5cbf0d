"""A trained run as a predictor, and `nextvec.load`."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from nextvec.corpus.reading import Space
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.data.windows import FloatArray, IntArray
from nextvec.disk import read_json
from nextvec.errors import ConfigError, RunError
from nextvec.models.base import NextVectorModel, Prediction, count_parameters
from nextvec.models.saving import WEIGHTS, load_model
from nextvec.vectors import RawVectors, UnitVectors


def load(run: str | Path) -> NextVectorModel:
    """The model of a run folder (or a Hugging Face hub id), in eval mode on the CPU.

    Raises:
        RunError: no run there, a damaged file, or weights that do not reproduce the output stored with them.
    """
    model, _ = load_model(run)
    return model.eval()


class ModelPredictor:
    """A module as the judge sees it: contexts in, the prediction after the last vector out.

    Args:
        model: in eval mode; it is not moved.
        context: how many of the most recent vectors it is given.
        name: its row in a table.
        encoder: fingerprint of the encoder it was trained on; None accepts any store.

    Attributes:
        head: which of the model's horizons it answers for, 0 the first.
    """

    kind: Literal["model"] = "model"

    def __init__(self, model: NextVectorModel, context: int, name: str, encoder: str | None = None) -> None:
        self.model, self.context, self.name, self.encoder = model.eval(), context, name, encoder
        self.head = 0
        self.facts: dict[str, Any] = {"parameters": count_parameters(model)}

    @property
    def dimension(self) -> int:
        """D."""
        return self.model.d_embed

    @property
    def conditional(self) -> bool:
        """Whether it can be told what to write towards."""
        return self.model.condition is not None

    @torch.inference_mode()
    def predict(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction [B, D] from contexts [B, T, D] padded on the right, lengths [B].

        Args:
            queries: [B, D] what a conditional model is to write towards; a row of zeros tells nothing.
        """
        prediction, rows, last = self._answered(contexts, lengths, queries)
        raw = prediction.ahead[rows, last, self.head].float()
        unit = torch.nn.functional.normalize(raw, dim=-1)
        return raw.cpu().numpy(), unit.cpu().numpy()

    @property
    def confident(self) -> bool:
        """Whether it can say how likely a candidate is to follow: it learned that of its nearest horizon."""
        return self.model.confidence is not None and self.head == 0

    @torch.inference_mode()
    def continuation(
        self,
        contexts: FloatArray,
        lengths: IntArray,
        candidates: FloatArray,
        queries: FloatArray | None = None,
    ) -> FloatArray:
        """How likely each of the candidates [B, C, D] is to follow its context rather than come from another
        document, at even odds: calibrated probabilities [B, C].

        Raises:
            ModelError: the model was built without confidence.
        """
        prediction, rows, last = self._answered(contexts, lengths, queries)
        extras = {name: extra[rows, last][:, None] for name, extra in prediction.extras.items()}
        at_last = Prediction(prediction.raw[rows, last][:, None], extras)
        logit = self.model.continuation(at_last, _tensor(candidates).to(rows.device))
        assert self.model.confidence is not None
        found: FloatArray = self.model.confidence.probability(logit).float().cpu().numpy()
        return found

    def _answered(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None
    ) -> tuple[Prediction, Tensor, Tensor]:
        """The prediction at every position, and where each row's last one is: rows [B], positions [B]."""
        x, n, told = self._tensors(contexts, lengths, queries)
        return self.model(x, n, told), torch.arange(len(n), device=n.device), n - 1

    def _tensors(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same where the model is."""
        device = self.model.scale.device
        n = torch.from_numpy(np.asarray(lengths, dtype=np.int64)).to(device)
        told = None if queries is None else _tensor(queries).to(device)
        return _tensor(contexts).to(device), n, told

    @property
    def generative(self) -> bool:
        """Whether it can be asked for samples."""
        return self.model.generative and self.head == 0

    @torch.inference_mode()
    def sample(
        self, contexts: FloatArray, lengths: IntArray, n: int, seed: int, queries: FloatArray | None = None
    ) -> FloatArray:
        """n raw vectors [n, B, D] that may come next, independent; the same for the same arguments.

        `queries` are as in `predict`.

        Raises:
            ModelError: the model only has a point prediction.
        """
        x, read, told = self._tensors(contexts, lengths, queries)
        generator = torch.Generator(x.device).manual_seed(seed)
        return self.model.sample(x, n, read, told, generator=generator).float().cpu().numpy()


class RunPredictor(ModelPredictor):
    """The model of a run folder, with what the run says of its training.

    Attributes:
        folder: the run.
        training: context, horizons, task, sources and split it was trained with.
    """

    def __init__(self, folder: str | Path, name: str | None = None, device: str = "cpu") -> None:
        """
        Raises:
            RunError: no run there, or one that is damaged.
            ConfigError: the device is not there.
        """
        _check_device(device)
        self.folder = Path(folder)
        model, info = load_model(self.folder)
        try:
            self.training: dict[str, Any] = info["training"]
            self._encoder: dict[str, Any] = info["encoder"]
            encoder, context = self._encoder["fingerprint"], int(self.training["context"])
        except (KeyError, TypeError):
            raise RunError(
                "does not say what it was trained on", where=self.folder, remedy="train it with nextvec train"
            ) from None
        super().__init__(model.to(device), context, name or self.folder.resolve().name, encoder)
        self.facts["bytes"] = (self.folder / WEIGHTS).stat().st_size
        self.facts |= self._results()

    @property
    def horizons(self) -> tuple[int, ...]:
        """How many chunks ahead each of its heads predicts."""
        said = self.training.get("horizons") or [self.training.get("horizon", 1)]
        return tuple(int(horizon) for horizon in said)

    @property
    def space(self) -> Space:
        """Whose vectors it takes, and how their texts were cut. Raises RunError: it does not say."""
        try:
            return Space(self._encoder, self.training["chunker"], self.training["normalised"])
        except KeyError:
            raise RunError(
                "was trained by a version that did not note how texts are cut",
                where=self.folder,
                remedy="train it again to give it texts",
            ) from None

    @property
    def task(self) -> str:
        """Either "next" or "middle"."""
        return str(self.training.get("task", "next"))

    def answer(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[RawVectors, UnitVectors]:
        """As `predict`, in types that tell raw from unit: a decoder takes the first, an index the second.

        Both carry the fingerprint of the encoder in whose space they lie.
        """
        values, normalised = (
            self.predict(contexts, lengths, queries)[0],
            self.training.get("normalised", False),
        )
        raw = RawVectors(values, str(self.encoder), bool(normalised))
        return raw, raw.unit()

    def aimed(self, horizon: int) -> Self:
        """The same run, answering for one of its horizons. Raises RunError for another."""
        if horizon not in self.horizons:
            raise RunError(
                f"trained to predict {', '.join(map(str, self.horizons))} ahead, asked for {horizon}",
                where=self.folder,
                remedy=f"give --horizon {self.horizons[0]}",
            )
        other = copy(self)
        other.head = self.horizons.index(horizon)
        return other

    def _results(self) -> dict[str, Any]:
        """Seconds and best epoch of a finished run; an interrupted one has none to tell."""
        path = self.folder / "metrics.json"
        if not path.is_file():
            return {"seconds": None}
        found = read_json(path, RunError)
        return {"seconds": found["seconds"], "epoch": found["epoch"], "validation_cosine": found["cosine"]}

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Keys of every document and chunk it was trained on."""
        return TrainedOn.load(self.folder / TRAINED_ON)


def _tensor(values: FloatArray) -> Tensor:
    """float32, of an array that may be read-only, as `RawVectors` are; torch takes only a writable one."""
    return torch.from_numpy(np.require(values, np.float32, ("C", "W")))


def _check_device(device: str) -> None:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.partition(":")[0], False):
        raise ConfigError(f"no {device} device here", where="device", remedy="give cpu")
