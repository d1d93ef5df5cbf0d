"""What a stack of blocks does around them: places, rotary, and each block's own entries in the state."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from nextvec.models.base import ModelConfig
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

B, D, H, LAYERS = 2, 3, 4, 2


@dataclass(frozen=True, kw_only=True)
class SumsConfig(ModelConfig):
    pass


class RunningSum(Block):
    """x + weight times the sum of all x so far; notes the places it is called at."""

    entries = ("sum",)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(H))
        self.places: list[Place] = []

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        self.places.append(place)
        sums = x.cumsum(1) + (0 if state is None else state["sum"][:, None])
        return x + self.weight * sums, {"sum": sums[:, -1]}

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        return {"sum": torch.zeros(batch, H, device=device, dtype=dtype)}


class Sums(Stack):
    architecture = "sums"

    def __init__(self) -> None:
        blocks = (RunningSum() for _ in range(LAYERS))
        super().__init__(SumsConfig(d_embed=D), H, blocks, nn.LayerNorm(H), dropout=0.5)

    def rotary(self, x: Tensor, start: int) -> tuple[Tensor, ...]:
        return (torch.arange(start, start + x.shape[1]),)


def make() -> Sums:
    torch.manual_seed(0)
    return Sums().eval()


@torch.inference_mode()
def test_each_block_has_its_own_entries() -> None:
    model, x = make(), torch.randn(B, 7, D)
    state = model.init_state(B)
    assert state.keys() == {"position", "sum.0", "sum.1"}
    first, state = model.extend(x[:, :4], state)
    assert int(state["position"]) == 4
    entered = model.enter(x[:, :4], 0)
    torch.testing.assert_close(state["sum.0"], entered.sum(1))
    assert not torch.equal(state["sum.1"], state["sum.0"])
    rows = [first.raw]
    for t in range(4, 7):
        prediction, state = model.step(x[:, t], state)
        rows.append(prediction.raw[:, None])
    torch.testing.assert_close(torch.cat(rows, 1), model(x).raw)


def test_all_blocks_are_told_the_same_place() -> None:
    model = make()
    _, state = model.extend(torch.randn(B, 5, D), model.init_state(B))
    model.extend(torch.randn(B, 2, D), state)
    first, second = (block.places for block in model.blocks)
    assert [place.start for place in first] == [0, 5]
    assert first[1].rotary[0].tolist() == [5, 6]
    assert all(a.rotary[0] is b.rotary[0] for a, b in zip(first, second, strict=True))  # made once


@pytest.mark.parametrize("training", [True, False])
def test_what_enters_is_dropped_in_training_alone_and_not_rounded_by_autocast(training: bool) -> None:
    model, x = make().train(training), torch.randn(B, 50, D)
    with torch.autocast("cpu", torch.bfloat16):
        entered = model.enter(x, 0)
    assert entered.dtype == torch.float32
    assert bool((entered == 0).any()) is training
