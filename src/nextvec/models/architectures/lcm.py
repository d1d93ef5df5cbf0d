"""Large Concept Model: a causal decoder that regresses the next vector, or diffuses it in one or two towers.

Paper: LCM team (Barrault et al.), Large Concept Models: Language Modeling in a Sentence Representation Space,
arXiv 2412.08821, 2024, section 2. `variant` is `base` (Base-LCM: regression), `one_tower` (one stack reads
clean vectors and denoises the next one beside them) or `two_tower` (a contextualizer, and a denoiser with
cross-attention to it and AdaLN from the level of noise).
Deviations: rotary positions in the cross-attention, too; the denoiser's self-attention sees a vector of zeros
beside its own position, since with one key its query and key projections would never learn; the One-Tower
adds the level's embedding to the projected vector, which is the paper's projection of both joined, and adds
none to clean vectors; with `skip` (the small presets, narrower than the vectors) the estimate begins with
the noisy vector. No layer has biases. Levels of noise are 1..T (Meta's 0..T - 1), the loss of a diffusion is
a mean square over dimensions (Meta's the root of their sum), and guidance is rescaled on the clean vector,
not on the noise. Where Meta's code departs from what it means, this does not: guidance drops every position
with its probability at any length, a sampler's next level is the one it visits next, nothing divides
by a signal of zero. The point prediction `raw` is the estimate of the vector from noise alone, the same noise
always; without guidance `sample` draws from the distribution learned, and more guidance trades diversity for
closeness.
Parity: Base-LCM with transformers.LlamaModel, both diffusions with plain interleaved forms in float64
(tests/parity/test_lcm.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nextvec.config import number
from nextvec.models.base import ModelConfig, NextVectorModel, Prediction
from nextvec.models.ops.attention import cache_append, cache_used, causal_mask
from nextvec.models.ops.positions import read_so_far, rotary_angles
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.towers import Angles, Denoiser, LevelEmbedding, Reader, Schedule, denoise, guided, pick


@dataclass(frozen=True, kw_only=True)
class LCMConfig(ModelConfig):
    """hidden: H; layers: of what reads; heads: of H / heads each; ffn: inner width; dropout: on what is
    added.

    The rest is of the diffusions. They need `standardise`, since noise has variance 1 in every dimension.

    Attributes:
        qk_norm: queries and keys are divided by their root mean square (Henry et al., Query-Key
            Normalization for Transformers, 2020; without their learned scale), and what a layer adds starts
            at zero; of the Base-LCM. The paper has neither.
        denoiser_layers: of the Two-Tower's denoiser.
        levels: T, of noise.
        skip: let a noisy vector itself through to the estimate (`Schedule.skip`); the paper does not. It is
            needed where H is less than D: the network could not even repeat what it is given.
        unconditional: share of the positions that are denoised without context in training, for guidance.
        steps, guidance, rescale, fresh: how `sample` goes (see there) where its caller does not say.
    """

    variant: Literal["base", "one_tower", "two_tower"] = "base"
    hidden: int
    layers: int
    heads: int
    ffn: int
    dropout: float = number(least=0, below=1)
    qk_norm: bool = False
    denoiser_layers: int | None = None
    levels: int = 100
    skip: bool = False
    unconditional: float = number(0.15, least=0, most=1)
    steps: int = 40
    guidance: float = number(1.0, least=0, most=100)
    rescale: float = number(0.7, least=0, most=1)
    fresh: float = number(1.0, least=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads or self.hidden // self.heads % 2:
            raise ValueError(f"hidden = {self.hidden} must be a multiple of 2 x {self.heads} heads")
        if (self.denoiser_layers is not None) != (self.variant == "two_tower"):
            raise ValueError("denoiser_layers goes with variant = 'two_tower', and only with it")
        if self.variant != "base" and not self.standardise:
            raise ValueError("diffusion needs standardise = true: noise has variance 1 in every dimension")
        if self.variant != "base" and self.head == "energy":
            raise ValueError("a diffusion draws by itself: choose another head than 'energy'")
        if self.variant != "base" and self.qk_norm:
            raise ValueError("qk_norm = true needs variant = 'base'")
        if self.variant != "base" and (self.ranking or self.resampled):
            raise ValueError(
                "ranking and resampled need variant = 'base', which gives a point, or --recipe residual"
            )
        if self.steps > self.levels:
            raise ValueError(f"steps = {self.steps} is more than there are levels ({self.levels})")


@architecture("lcm")
class LCM(NextVectorModel):
    """The state is each layer's cached keys and values: `own` of what reads, `cross` of the Two-Tower's
    denoiser."""

    Config = LCMConfig
    streaming = "cache"
    caches = ("own", "cross")
    paper = "LCM team, Large Concept Models, 2024"
    complexity = "O(T^2)"
    best_for = "samples of what may come next (the diffusions); size (Base-LCM, 1.6B)"
    config: LCMConfig
    start: Tensor

    def __init__(self, config: LCMConfig) -> None:
        super().__init__(config, width=config.hidden)
        D, c = config.d_embed, config
        self.reader = Reader(D, c.hidden, c.layers, c.heads, c.ffn, c.dropout, qk_norm=c.qk_norm)
        self.schedule = Schedule(c.levels)
        self.denoiser: Denoiser | None = None
        self.level: LevelEmbedding | None = None
        if c.denoiser_layers is not None:
            self.denoiser = Denoiser(D, c.levels, c.hidden, c.denoiser_layers, c.heads, c.ffn, c.dropout)
        elif c.variant == "one_tower":
            self.level = LevelEmbedding(c.levels, c.hidden)
        if self.diffuses:
            self.register_buffer("start", torch.randn(D))

    @property
    def diffuses(self) -> bool:
        """Whether this is one of the diffusions."""
        return self.config.variant != "base"

    @property
    def generative(self) -> bool:
        return self.diffuses or super().generative

    def encode(self, x: Tensor) -> Tensor:
        if not self.diffuses:
            hidden: Tensor = self.reader(x)[0]
            return hidden
        read = self._read(x)
        return self._from_noise(read, x.shape[0], 0, x.shape[1])

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (2, batch, self.config.heads, 0, self.reader.head_width)
        state = {"position": torch.zeros((), dtype=torch.int64)}
        for i in range(self.config.layers):
            state[f"own.{i}"] = torch.empty(shape, device=device, dtype=dtype)
        for i in range(self.config.denoiser_layers or 0):
            # The first thing to look at is a vector of zeros, see `Denoiser`.
            state[f"cross.{i}"] = torch.zeros((*shape[:3], 1, shape[4]), device=device, dtype=dtype)
        return state

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        length = read_so_far(state)
        end = length + x.shape[1]
        hidden, own = self.reader(x, [state[f"own.{i}"] for i in range(self.config.layers)], length)
        new: State = {"position": state["position"] + x.shape[1]}
        new |= {f"own.{i}": cache for i, cache in enumerate(own)}
        if not self.diffuses:
            return hidden, new
        read = [cache_used(cache, end) for cache in own]
        if self.denoiser is not None:
            kept = [
                cache_append(state[f"cross.{i}"], keys_values, length + 1)
                for i, keys_values in enumerate(self.denoiser.keys_values(hidden, length))
            ]
            new |= {f"cross.{i}": cache for i, cache in enumerate(kept)}
            read = [cache_used(cache, end + 1) for cache in kept]
        return self._from_noise(read, len(x), length, x.shape[1]), new

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state

    def generate(
        self, inputs: Tensor, base: Tensor | None, target: Tensor, mask: Tensor
    ) -> tuple[Prediction, Tensor]:
        """The point prediction, and for a diffusion the squared error of the denoised vectors, each at a
        random level, in standardised units (mean over D). See `NextVectorModel.generate`."""
        if not self.diffuses:
            return super().generate(inputs, base, target, mask)
        B, T, _ = inputs.shape
        read = self._read(inputs)
        truth = self.inputs(target.masked_fill(~mask[..., None], 0.0), None)
        level = torch.randint(1, self.config.levels + 1, (B, T), device=inputs.device)
        noisy = self.schedule.noised(truth, level, torch.randn_like(truth))
        # Both in one pass: from noise alone with all of the context, and from the random level.
        z = torch.cat((self.start.expand(B, T, -1), noisy), 1)
        levels = torch.cat((torch.full_like(level, self.config.levels), level), 1)
        hidden = self._denoised(z, levels, self._angles(1, T, twice=True), read, self._visible(read, B, T))
        point, denoised = hidden[:, :T], hidden[:, T:]
        error = (self._clean(denoised, base, noisy, level) - truth).square().mean(-1)
        own = error.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
        return self.predict(point, base), own

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        n: int,
        lengths: Tensor | None = None,
        query: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        fresh: float | None = None,
    ) -> Tensor:
        """Draw n vectors [n, B, D]; for a diffusion by going down the levels. See `NextVectorModel.sample`.

        Args:
            steps: how many levels are visited, of all of them. More is slower and closer to what was learned.
            guidance: 1 is what was learned, 0 ignores the context, above 1 exaggerates it.
            fresh: 0 draws no noise on the way (DDIM), 1 as much as the ancestral sampler.
        """
        if not self.diffuses:
            return super().sample(x, n, lengths, query, generator=generator)
        c = self.config
        x = self.read(x, lengths)
        B, T, D = x.shape
        read, base = self._read(self.backbone_inputs(x, query)), self.residual(x)
        length = torch.full((B,), T, device=x.device) if lengths is None else lengths.to(x.device)
        if base is not None:
            base = base[torch.arange(B, device=x.device), length - 1][:, None]
        angles = pick(rotary_angles(0, T + 1, self.reader.head_width, x.device, x.dtype), length)
        place = torch.arange(read[0].shape[-2], device=x.device) - self._nothing
        seen = (place < length[:, None])[:, None].expand(-1, n, -1)
        free = (place < 0).expand_as(seen)
        push = c.guidance if guidance is None else guidance

        def guess(z: Tensor, level: int) -> Tensor:
            if push == 1.0:
                return self._clean(self._denoised(z, level, angles, read, seen), base, z, level)
            z = z.repeat(1, 2, 1)
            hidden = self._denoised(z, level, angles, read, torch.cat((seen, free), 1))
            both = self._clean(hidden, base, z, level)
            return guided(both[:, :n], both[:, n:], push, c.rescale if push > 1.0 else 0.0)

        start = torch.randn(B, n, D, generator=generator, device=x.device, dtype=x.dtype)
        z = denoise(
            self.schedule, guess, start, steps or c.steps, c.fresh if fresh is None else fresh, generator
        )
        assert self.standardiser is not None
        return self.standardiser.back(z, shift=True).transpose(0, 1) * self.scale

    @property
    def _nothing(self) -> int:
        """How many of what is looked at stand before the first vector: the Two-Tower's zeros."""
        return 0 if self.denoiser is None else 1

    def _read(self, x: Tensor) -> list[Tensor]:
        """What a denoised vector may look at of x [B, T, D]: keys and values of each layer, [2, B, h, S,
        d]."""
        hidden, own = self.reader(x)
        if self.denoiser is None:
            return list(own)
        return [
            torch.nn.functional.pad(keys_values, (0, 0, 1, 0))
            for keys_values in self.denoiser.keys_values(hidden, 0)
        ]

    def _from_noise(self, read: list[Tensor], batch: int, start: int, count: int) -> Tensor:
        """Hidden states [B, T, H] of the point predictions after positions start..start+count-1."""
        z = self.start.expand(batch, count, -1)
        seen = causal_mask(count, read[0].shape[-2], z.device)
        return self._denoised(z, self.config.levels, self._angles(start + 1, count), read, seen)

    def _visible(self, read: list[Tensor], batch: int, count: int) -> Tensor:
        """[B, 2 T, S]: the same positions twice, the second time some of them without context."""
        seen = causal_mask(count, read[0].shape[-2], self.start.device).expand(batch, -1, -1)
        dropped = torch.rand(batch, count, device=seen.device) < self.config.unconditional
        place = torch.arange(seen.shape[-1], device=seen.device)
        return torch.cat((seen, seen & ~(dropped[..., None] & (place >= self._nothing))), 1)

    def _denoised(
        self, z: Tensor, level: Tensor | int, angles: Angles, read: list[Tensor], seen: Tensor
    ) -> Tensor:
        """Noisy vectors z [B, N, D] at their levels -> hidden states [B, N, H], for the head to say z0."""
        if self.denoiser is not None:
            hidden: Tensor = self.denoiser(z, level, angles, read, seen)
            return hidden
        assert self.level is not None
        level_term = self.level(level) if isinstance(level, int) else self.level()[level]
        return self.reader.denoise(self.reader.embed(z) + level_term, angles, read, seen)

    def _clean(self, hidden: Tensor, base: Tensor | None, z: Tensor, level: Tensor | int) -> Tensor:
        """Hidden states [B, N, H] of noisy z [B, N, D] at their levels -> estimates of z0 [B, N, D]."""
        estimate = self.inputs(self.assemble(self.head(hidden), hidden, base), None)
        if not self.config.skip:
            return estimate
        return self.schedule.skip(z, estimate, None if base is None else self.inputs(base, None), level)

    def _angles(self, start: int, count: int, *, twice: bool = False) -> Angles:
        like = self.start
        cos, sin = rotary_angles(start, count, self.reader.head_width, like.device, like.dtype)
        return (cos.repeat(2, 1), sin.repeat(2, 1)) if twice else (cos, sin)
