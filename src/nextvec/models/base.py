"""The contract every architecture keeps: vectors [B, T, D] in, predictions [B, T, D] out, causal, and a
step form that reads one vector at a time and agrees with the parallel form.

Shapes: B batch, T time (chunks), D embedding, H the backbone's width.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.config import ModelConfig
from nextvec.models.heads import (
    ContinuationHead,
    GenerativeHead,
    Misses,
    Prediction,
    Ranker,
    Standardiser,
    make_head,
    zero_init,
    zero_init_head,
)
from nextvec.models.residual import InputAverages, Residual, State, at_last, clone_state, make_residual
from nextvec.models.saving import MODEL_CARD, load_model, save_model

__all__ = ["QUERY", "ModelConfig", "NextVectorModel", "Prediction", "State", "clone_state"]

Streaming = Literal["constant", "cache", "buffer"]

QUERY, CONTINUATION = "query", "continuation"  # names in a state, and in a prediction's extras


class NextVectorModel(  # type: ignore[call-arg]
    nn.Module,
    PyTorchModelHubMixin,  # type: ignore[misc]
    library_name="nextvec",
    model_card_template=MODEL_CARD,
):
    """Base of all architectures: input checks, padding, scale, query, heads and residual are done here.

    A subclass gives `architecture` (by the registry's decorator), `Config`, `streaming`, `paper`,
    `complexity`, `best_for`, and four methods on scaled vectors: `encode` (parallel), `encode_step`,
    `encoder_state`, and `encode_chunk` where a chunk can be read faster than vector by vector. It keeps every
    tensor it needs as a parameter or a saved buffer, so that a weights file is the whole model. A parameter
    that the optimiser has to treat apart is marked by `nextvec.models.ops.parameters.treat`.

    Attributes:
        scale: inputs are divided by it and outputs multiplied. Training sets it so that the network sees
            vectors of about unit length (1 for unit vectors: the brief's way) or, over sqrt(D), components of
            about 1, whatever the encoder.
        streaming: what the state of `step` is: "constant" in size, a "cache" that grows with the context
            (the entries whose keys begin with a prefix in `caches`), or a "buffer" of bounded length
            (the same).
        no_gradient: parameters whose gradient is zero by construction, each with the reason.
        paper, complexity, best_for: authors, title and year of what it implements; the cost of the parallel
            form in T, as "O(T)"; when to take it, in a few words.
        gives_attention: `forward` and `step` take `return_attention` (see `AMN.forward`).
        random_init_residuals: residuals beside which the head starts at random. Beside all others its last
            layer starts at zero, so that an untrained model is just the baseline.
        standardiser, gate, condition, confidence, averages, ranker, misses: None where not configured.
    """

    architecture: ClassVar[str]
    Config: ClassVar[type[ModelConfig]]
    streaming: ClassVar[Streaming]
    paper: ClassVar[str]
    complexity: ClassVar[str]
    best_for: ClassVar[str]
    caches: ClassVar[tuple[str, ...]] = ()
    no_gradient: ClassVar[dict[str, str]] = {}
    gives_attention: ClassVar[bool] = False
    random_init_residuals: ClassVar[tuple[str, ...]] = ()
    scale: Tensor

    def __init__(self, config: ModelConfig, width: int) -> None:
        """config: of the subclass's `Config` type. width: H, the size of what `encode` gives to the head."""
        super().__init__()
        D = config.d_embed
        self.config = config
        self.d_embed = D
        self.head = make_head(config.head, width, D)
        self.further_heads = nn.ModuleList(
            make_head(config.head, width, D) for _ in range(1, config.horizons)
        )
        self.residual = make_residual(config.residual, D, config.residual_context)
        if config.residual != "none" and config.residual not in self.random_init_residuals:
            for head in (self.head, *self.further_heads):
                zero_init_head(head)
        self.gate = zero_init(nn.Linear(width, 1)) if config.gate else None
        self.standardiser = Standardiser(D) if config.standardise else None
        self.condition = zero_init(nn.Linear(D, D, bias=False)) if config.conditional else None
        self.confidence = ContinuationHead(width) if config.confidence else None
        self.averages = InputAverages(D) if config.averages else None
        self.ranker = Ranker(width, D) if config.ranking else None
        self.misses = Misses(config.resampled, D) if config.resampled else None
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

    def encode_last(self, x: Tensor, last: Tensor | None) -> Tensor:
        """What `encode` gives at position `last` [B] of each row of x (None: the very last) -> [B, H]."""
        return at_last(self.encode(x), last)

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [B, T, D] that follows what `state` has read -> hidden states [B, T, H] and the new state."""
        hidden: list[Tensor] = []
        for x_t in x.unbind(1):
            h_t, state = self.encode_step(x_t, state)
            hidden.append(h_t)
        return torch.stack(hidden, 1), state

    def forward(self, x: Tensor, lengths: Tensor | None = None, query: Tensor | None = None) -> Prediction:
        """Predict the next vector at every position (the parallel form).

        Args:
            x: [B, T, D] vectors as the store gives them, earliest first, right-padded.
            lengths: [B] number of real vectors in each row; None when all rows are full. What stands in the
                padding does not matter, and neither do the predictions there.
            query: [B, D] a vector to be written towards, for a conditional model; a zero row is no query.
        Returns:
            Prediction of [B, T, D]: position t is the prediction of the vector at t + 1.
        Raises:
            ModelError: a wrong shape or dtype, or a query that the model cannot take.
        """
        x = self.read(x, lengths)
        hidden = self.encode(self.backbone_inputs(x, query))
        return self.predict(hidden, self.residual(x), ranking=self.ranking_base(x))

    def after(self, x: Tensor, lengths: Tensor | None = None, query: Tensor | None = None) -> Prediction:
        """`forward` where only the prediction after each row's last vector is wanted: a Prediction of [B, D],
        with as little done for the other positions as the architecture allows."""
        hidden, base, ranking = self._after(x, lengths, query)
        return self.predict(hidden, base, ranking=ranking)

    def extend(self, x: Tensor, state: State) -> tuple[Prediction, State]:
        """Read a whole chunk x [B, T, D] after what `state` has read (the chunked form) -> Prediction of
        [B, T, D] and the state after the chunk."""
        x = self.read(x)
        seen, base, ranking, baseline = self.bases(x, state)
        hidden, encoder = self.encode_chunk(seen, state)
        return self.predict(hidden, base, ranking=ranking), {**encoder, **baseline}

    def init_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        query: Tensor | None = None,
    ) -> State:
        """The state before the first vector of `batch` documents; device and dtype default to the model's.

        `query` [B, D] is as in `forward`; the state carries it from step to step.
        """
        # Where a position is counted, the counter stays on the CPU: reading it never waits for the device.
        at = self.scale.device if device is None else torch.device(device)
        kind = self.scale.dtype if dtype is None else dtype
        term = self.query_term(query, batch)
        if term is None and self.condition is not None:
            term = self.scale.new_zeros(batch, self.d_embed)
        state = self.encoder_state(batch, at, kind)
        for base in self._recurrences:
            if base is not None:
                state |= base.init_state(batch, self.d_embed, at, kind)
        return state if term is None else {**state, QUERY: term.to(at, kind)}

    def step(self, x_t: Tensor, state: State) -> tuple[Prediction, State]:
        """Read one vector x_t [B, D] and predict the next one (the step form, for inference).

        The state handed in is used up: a growing cache is written in place. To go on from one state in two
        directions, take `clone_state` first.
        """
        x_t = self.read_one(x_t)
        seen, base, ranking, baseline = self.bases(x_t, state)
        hidden, encoder = self.encode_step(seen, state)
        return self.predict(hidden, base, ranking=ranking), {**encoder, **baseline}

    @property
    def _recurrences(self) -> tuple[Residual | None, ...]:
        """What reads the vectors beside the backbone, each with entries of its own in the state."""
        return self.averages, self.residual, None if self.ranker is None else self.ranker.base

    def bases(self, x: Tensor, state: State) -> tuple[Tensor, Tensor | None, Tensor | None, State]:
        """x [B, T, D] or one vector [B, D] after what `state` has read -> what the backbone reads, the
        baseline and the ranking base, each in the shape of x, and their new state, the query kept in it."""
        made: list[Tensor | None] = []
        new: State = {QUERY: state[QUERY]} if QUERY in state else {}
        for base in self._recurrences:
            advance = None if base is None else base.step if x.ndim == 2 else base.chunk
            output, own = (None, {}) if advance is None else advance(x, state)
            made.append(output)
            new |= own
        mixed, baseline, ranking = made
        seen = self.inputs(x if mixed is None else x + mixed, state.get(QUERY))
        return seen, baseline, ranking, new

    def ranking_base(self, x: Tensor) -> Tensor | None:
        """What the ranker adds to, for x [B, T, D] in the network's scale; None without a ranker."""
        return None if self.ranker is None else self.ranker.base(x)

    @property
    def generative(self) -> bool:
        """Whether it has a distribution to draw from (`sample`) and a loss of its own (`learn`)."""
        return isinstance(self.head, GenerativeHead)

    @property
    def can_sample(self) -> bool:
        """Whether there is something to `sample`: a distribution that was learned, or resampled misses."""
        return self.generative or self.misses is not None

    def learn(
        self, x: Tensor, lengths: Tensor | None, target: Tensor, mask: Tensor, query: Tensor | None = None
    ) -> tuple[Prediction, dict[str, Tensor]]:
        """What training calls: the prediction, and the losses that only the model itself can compute.

        Args:
            x, lengths, query: as in `forward`.
            target, mask: [B, T, D] and [B, T] (or [B, T, K, D] and [B, T, K]; the first horizon counts).
        Returns: the prediction and {} or {"generative": scalar}, which is in the model's scale.
        """
        if not self.generative:
            return self(x, lengths, query), {}
        if target.ndim == 4:
            target, mask = target[..., 0, :], mask[..., 0]
        x = self.read(x, lengths)
        inputs, goal = self.backbone_inputs(x, query), target.to(x.dtype) / self.scale
        prediction, own = self.generate(inputs, self.residual(x), goal, mask)
        return prediction, {"generative": own}

    def generate(
        self, inputs: Tensor, base: Tensor | None, target: Tensor, mask: Tensor
    ) -> tuple[Prediction, Tensor]:
        """What `learn` asks of a generative model: the prediction, and the loss of its distribution (scalar),
        for inputs (what the backbone reads), base, target [B, T, D] in the model's scale, and mask [B, T]."""
        assert isinstance(self.head, GenerativeHead)
        hidden = self.encode(inputs)
        samples = self.assemble(self.head.draw(hidden, self.head.draws), hidden, base)
        return self.predict(hidden, base), self.head.score(samples, target, mask)

    def sample(
        self,
        x: Tensor,
        n: int,
        lengths: Tensor | None = None,
        query: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n vectors [n, B, D] that may follow the last real one of each row, in the encoder's scale.

        Args:
            x, lengths, query: as in `forward`.
        Raises:
            ModelError: the model only has a point prediction.
        """
        if self.misses is not None:
            return self.after(x, lengths, query).raw + self.misses.draw(n, len(x), generator) * self.scale
        if not isinstance(self.head, GenerativeHead):
            which = f"{self.architecture} with the head '{self.config.head}'"
            remedy = "build it with resampled = 512 or a head that draws, or take `raw`"
            raise ModelError(f"{which} has no distribution to sample from", remedy=remedy)
        hidden, base, _ = self._after(x, lengths, query)
        return self.assemble(self.head.draw(hidden, n, generator), hidden, base) * self.scale

    def continuation(self, prediction: Prediction, candidate: Tensor) -> Tensor:
        """How likely each candidate is what comes next, as a logit; `confidence.probability` calibrates it.

        Args:
            prediction: what this model answered.
            candidate: [B, T, D] ([B, D] for a step's), in any scale; or [B, T, K, D], one a horizon.
        Returns: [B, T] ([B], [B, T, K]).
        Raises:
            ModelError: the model was built without confidence.
        """
        if self.confidence is None:
            remedy = "build it with confidence = true"
            raise ModelError(f"{self.architecture} has no confidence", remedy=remedy)
        shape, predicted = prediction.extras[CONTINUATION], prediction.raw
        if candidate.ndim > predicted.ndim:
            shape, predicted = shape.unsqueeze(-2), prediction.ahead
        return self.confidence.logit(shape, predicted, candidate)

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

    def query_term(self, query: Tensor | None, batch: int) -> Tensor | None:
        """What a query [B, D] adds to every input of the backbone, [B, D]; None without a query."""
        if query is None:
            return None
        if self.condition is None:
            remedy = "build it with conditional = true"
            raise ModelError(f"{self.architecture} was not built to take a query", remedy=remedy)
        if query.shape != (batch, self.d_embed) or not query.is_floating_point():
            remedy = f"give one vector of {self.d_embed} numbers a row"
            raise ModelError(f"{self.architecture}: the query is {list(query.shape)}", remedy=remedy)
        term: Tensor = self.condition(query.to(self.scale.dtype) / self.scale)
        return term.to(self.scale.dtype)

    def backbone_inputs(self, x: Tensor, query: Tensor | None) -> Tensor:
        """What the backbone reads of documents x [B, T, D] in the network's scale, for a query [B, D]."""
        mixed = x if self.averages is None else x + self.averages(x)
        return self.inputs(mixed, self.query_term(query, x.shape[0]))  # len(x) is one size for an export

    def inputs(self, x: Tensor, term: Tensor | None) -> Tensor:
        """What the backbone reads of scaled vectors x [B, T, D] or [B, D], and of what `query_term` gave."""
        x = x if self.standardiser is None else self.standardiser(x)
        if term is None:
            return x
        return x + (term if x.ndim == 2 else term[:, None])

    def assemble(self, output: Tensor, hidden: Tensor, base: Tensor | None) -> Tensor:
        """A head's output [..., D] for hidden states [..., H], with the gate, the standardiser and the
        baseline [..., D] -> a prediction in the model's scale (raw / scale)."""
        output = output.to(self.scale.dtype)
        if self.gate is not None:
            output = output * (2 * torch.sigmoid(self.gate(hidden))).to(output.dtype)
        if self.standardiser is not None:
            output = self.standardiser.back(output, shift=base is None)
        return output if base is None else output + base

    def predict(
        self,
        hidden: Tensor,
        base: Tensor | None,
        extras: dict[str, Tensor] | None = None,
        ranking: Tensor | None = None,
    ) -> Prediction:
        """Hidden states [..., H], the baseline and the ranking base [..., D] -> Prediction in the encoder's
        own scale."""
        raw, *further = (
            self.assemble(head(hidden), hidden, base) * self.scale
            for head in (self.head, *self.further_heads)
        )
        extras = dict(extras or {})
        if self.confidence is not None:
            extras[CONTINUATION] = self.confidence(hidden)
        query = None if self.ranker is None or ranking is None else self.ranker(hidden, ranking)
        return Prediction(raw, extras, torch.stack(further, -2) if further else None, query)

    @classmethod
    def from_pretrained(cls, source: str | Path, **download: Any) -> Self:
        """The model saved in a folder or published on the Hugging Face Hub as `owner/name`, in eval mode.
        Arguments and errors as `saving.load_model`; ModelError where it is of another architecture."""
        model, _ = load_model(source, **download)
        if not isinstance(model, cls):
            message = f"holds a {model.architecture}, not a {cls.architecture}"
            remedy = f"load it with {type(model).__name__}.from_pretrained"
            raise ModelError(message, where=source, remedy=remedy)
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        """What the mixin's `save_pretrained` and `push_to_hub` call: our own files instead of its own."""
        save_model(save_directory, self, {})

    def _after(
        self, x: Tensor, lengths: Tensor | None, query: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Hidden state [B, H], baseline and ranking base [B, D] after each row's last vector."""
        x = self.read(x, lengths)
        last = None if lengths is None else lengths.to(x.device) - 1
        hidden = self.encode_last(self.backbone_inputs(x, query), last)
        end = torch.full(x.shape[:1], x.shape[1] - 1, device=x.device) if last is None else last
        ranking = None if self.ranker is None else self.ranker.base.after(x, end)
        return hidden, self.residual.after(x, end), ranking

    def _wrong_input(self, x: Tensor, shape: str) -> ModelError:
        shape = shape.format(self.d_embed)
        message = f"{self.architecture}: the input is {str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
        return ModelError(message, remedy=f"give floating point vectors of shape {shape}")
