"""The contract every architecture keeps: vectors [B, T, D] in, predictions [B, T, D] out, causal, and a
step form that reads one vector at a time and agrees with the parallel form.

Shapes: B batch, T time (chunks), D embedding, H the backbone's width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.heads import HeadName, make_head, silence_head
from nextvec.models.residual import ResidualName, State, make_residual

Streaming = Literal["constant", "cache", "buffer"]

MAX_SIZE = 2**16  # of any width or count in a configuration: a file from elsewhere may say anything

MODEL_CARD = """---
{{ card_data }}
---

A nextvec model: it reads a document as a sequence of embedding vectors and
predicts the next one. `config.json` names the architecture and the encoder.

```python
import nextvec
model = nextvec.load("OWNER/NAME")     # model(x).raw and model(x).unit, [B, T, D] -> [B, T, D]
```
"""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says comes next.

    Attributes:
        raw: [B, T, D] ([B, D] from a step): the vector as the encoder would give it. Decoders take it.
        extras: what was asked for besides, such as AMN's attention weights.
    """

    raw: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def unit(self) -> Tensor:
        """`raw` divided by its length, for cosine and retrieval. Same shape."""
        return F.normalize(self.raw, dim=-1)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every architecture's configuration has. The sizes themselves come from a preset file."""

    d_embed: int
    head: HeadName = "linear"
    residual: ResidualName = "none"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is int and not 1 <= value <= MAX_SIZE:
                raise ValueError(f"{name} = {value}: must be 1 to {MAX_SIZE}")
        if not 0.0 <= getattr(self, "dropout", 0.0) < 1.0:
            raise ValueError("dropout must be in [0, 1)")


class NextVectorModel(  # type: ignore[call-arg]
    nn.Module,
    PyTorchModelHubMixin,  # type: ignore[misc]
    library_name="nextvec",
    model_card_template=MODEL_CARD,
):
    """Base of all architectures: input checks, padding, scale, head and residual are done here.

    A subclass gives `architecture`, `Config`, `streaming`, and four methods on scaled vectors:
    `encode` (parallel), `encode_step`, `encoder_state`, and `encode_chunk` where a chunk can be read faster
    than vector by vector. It keeps every tensor it needs as a parameter or a saved buffer, so that a weights
    file is the whole model.

    Attributes:
        scale: inputs are divided by it and outputs multiplied. Training sets it so that the network sees
            vectors of about unit length (1 for unit vectors: the brief's way) or, over sqrt(D), components of
            about 1, whatever the encoder.
        streaming: what the state of `step` is: "constant" in size, a "cache" that grows with the context
            (the entries whose keys begin with a prefix in `caches`), or a "buffer" of bounded length
            (the same).
        no_gradient: parameters whose gradient is zero by construction, each with the reason.
    """

    architecture: ClassVar[str]
    Config: ClassVar[type[ModelConfig]]
    streaming: ClassVar[Streaming]
    caches: ClassVar[tuple[str, ...]] = ()
    no_gradient: ClassVar[dict[str, str]] = {}
    scale: Tensor

    def __init__(self, config: ModelConfig, width: int) -> None:
        """
        Args:
            config: of the subclass's `Config` type.
            width: H, the size of what `encode` gives to the head.
        """
        super().__init__()
        self.config = config
        self.d_embed = config.d_embed
        self.head = make_head(config.head, width, config.d_embed)
        self.residual = make_residual(config.residual)
        if self.residual.starts_alone:
            silence_head(self.head)
        self.register_buffer("scale", torch.ones(()))

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> hidden states [B, T, H]; position t sees vectors 0..t."""

    @abstractmethod
    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """x_t [B, D] -> hidden state [B, H] and the backbone's new state."""

    @abstractmethod
    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """The backbone's state before the first vector."""

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [B, T, D] that follows what `state` has read -> hidden states [B, T, H] and the new state."""
        hidden: list[Tensor] = []
        for x_t in x.unbind(1):
            h_t, state = self.encode_step(x_t, state)
            hidden.append(h_t)
        return torch.stack(hidden, 1), state

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Prediction:
        """Predict the next vector at every position (the parallel form).

        Args:
            x: [B, T, D] vectors as the store gives them, earliest first, right-padded.
            lengths: [B] number of real vectors in each row; None when all rows are full. What stands in the
                padding does not matter, and neither do the predictions there.
        Returns:
            Prediction of [B, T, D]: position t is the prediction of the vector at t + 1.
        Raises:
            ModelError: a wrong shape or dtype.
        """
        x = self.read(x, lengths)
        return self.predict(self.encode(x), self.residual(x))

    def extend(self, x: Tensor, state: State) -> tuple[Prediction, State]:
        """Read a whole chunk x [B, T, D] after what `state` has read (the chunked form).

        Returns: Prediction of [B, T, D] and the state after the chunk.
        """
        x = self.read(x)
        hidden, encoder = self.encode_chunk(x, state)
        base, baseline = self.residual.chunk(x, state)
        return self.predict(hidden, base), {**encoder, **baseline}

    def init_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """The state before the first vector of `batch` documents; device and dtype default to the model's."""
        # Where a position is counted, the counter stays on the CPU: reading it never waits for the device.
        at = self.scale.device if device is None else torch.device(device)
        kind = self.scale.dtype if dtype is None else dtype
        encoder = self.encoder_state(batch, at, kind)
        return {**encoder, **self.residual.init_state(batch, self.d_embed, at, kind)}

    def step(self, x_t: Tensor, state: State) -> tuple[Prediction, State]:
        """Read one vector x_t [B, D] and predict the next one (the step form, for inference).

        The state handed in is used up: a growing cache is written in place. To go on from one state in two
        directions, take `clone_state` first.
        """
        x_t = self.read_one(x_t)
        hidden, encoder = self.encode_step(x_t, state)
        base, baseline = self.residual.step(x_t, state)
        return self.predict(hidden, base), {**encoder, **baseline}

    def read(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Check x [B, T, D], zero its padding, bring it to the network's scale and dtype."""
        if x.ndim != 3 or x.shape[-1] != self.d_embed or x.shape[1] == 0 or not x.is_floating_point():
            raise self._wrong_input(x, "[batch, time, {}]")
        x = x.to(self.scale.dtype)
        if lengths is not None:
            if lengths.shape != x.shape[:1]:
                raise ModelError(f"lengths have shape {list(lengths.shape)}", remedy="give one per row of x")
            time = torch.arange(x.shape[1], device=x.device)
            x = x.masked_fill((time >= lengths.to(x.device)[:, None])[..., None], 0.0)
        return x / self.scale

    def read_one(self, x_t: Tensor) -> Tensor:
        """Check x_t [B, D], bring it to the network's scale and dtype."""
        if x_t.ndim != 2 or x_t.shape[-1] != self.d_embed or not x_t.is_floating_point():
            raise self._wrong_input(x_t, "[batch, {}]")
        return x_t.to(self.scale.dtype) / self.scale

    def predict(
        self, hidden: Tensor, base: Tensor | None, extras: dict[str, Tensor] | None = None
    ) -> Prediction:
        """Hidden states [..., H] and the baseline [..., D] -> Prediction in the encoder's own scale."""
        raw = self.head(hidden).to(self.scale.dtype)
        return Prediction((raw if base is None else raw + base) * self.scale, extras or {})

    @classmethod
    def from_pretrained(cls, source: str | Path, **download: Any) -> Self:
        """The model saved in a folder or published on the Hugging Face Hub as `owner/name`, in eval mode.

        Args:
            download: revision, token, cache_dir, local_files_only, as in huggingface_hub.snapshot_download.
        Raises:
            RunError: whatever `saving.load_model` finds wrong.
            ModelError: it is of another architecture than `cls`.
        """
        from nextvec.models.saving import load_model

        model, _ = load_model(source, **download)
        if not isinstance(model, cls):
            raise ModelError(
                f"holds a {model.architecture}, not a {cls.architecture}",
                where=source,
                remedy=f"load it with {type(model).__name__}.from_pretrained",
            )
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        """What the mixin's `save_pretrained` and `push_to_hub` call: our own files instead of its own."""
        from nextvec.models.saving import save_model

        save_model(save_directory, self, {})

    def _wrong_input(self, x: Tensor, shape: str) -> ModelError:
        kind = str(x.dtype).removeprefix("torch.")
        return ModelError(
            f"{self.architecture}: the input is {kind} {list(x.shape)}",
            remedy=f"give floating point vectors of shape {shape.format(self.d_embed)}",
        )


def clone_state(state: State) -> State:
    """A copy that further steps on the original do not touch."""
    return {key: value.clone() for key, value in state.items()}


def count_parameters(model: nn.Module) -> int:
    """Number of learned values."""
    return sum(p.numel() for p in model.parameters())
