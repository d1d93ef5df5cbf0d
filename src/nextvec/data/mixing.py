"""Mixing of sources: how much of an epoch is of which, whatever their sizes.

An epoch keeps its nominal number of targets. A source that is to have more of them than its documents hold is
cut several times over, each time at other phases; one that is to have less gives a random part of its
windows, another one each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nextvec.data.windows import IntArray, SequenceShape, Windows
from nextvec.errors import ConfigError

WHERE = "data.mixing"


@dataclass(frozen=True)
class MixtureComponent:
    """One source of a mixture.

    Attributes:
        targets: what its documents hold, of the nearest horizon.
        share: of the targets of an epoch, drawn from this source.
        passes: how often an epoch goes through its documents; below 1 it sees a part of them.
    """

    source: str
    targets: int
    share: float
    passes: float


@dataclass(frozen=True)
class Mixture:
    """The sources of a mixture and the documents of each, as indices into all documents."""

    parts: tuple[MixtureComponent, ...]
    members: tuple[IntArray, ...]

    @classmethod
    def of(
        cls, documents: Windows, shape: SequenceShape, mixing: Mapping[str, float], temperature: float = 1.0
    ) -> Mixture | None:
        """None where every source keeps the share it has.

        Args:
            mixing: source -> weight; empty weighs each source by its targets.
            temperature: weights are raised to 1 / temperature.
        Raises:
            ConfigError: `mixing` names a source there is none of, leaves one out, or wants targets of one
                that holds none.
        """
        if not mixing and temperature == 1.0:
            return None
        names, owner = np.unique(documents.sources, return_inverse=True)
        held = np.bincount(owner, documents.targets_each(shape), minlength=len(names))
        _check_names(names.tolist(), mixing)
        weights = np.array([mixing[name] for name in names.tolist()]) if mixing else held
        for name, weight, targets in zip(names.tolist(), weights, held, strict=True):
            if mixing and weight > 0 and targets == 0:
                raise ConfigError(
                    f"source '{name}' holds no target", where=WHERE, remedy="give it the weight 0"
                )
        # Relative to the largest, so that no temperature overflows.
        powers = (weights / weights.max()) ** (1 / temperature)
        shares = powers / powers.sum()
        parts, members = [], []
        for i, name in enumerate(names.tolist()):
            if shares[i] > 0 and held[i] > 0:
                passes = float(shares[i] * held.sum() / held[i])
                parts.append(MixtureComponent(name, int(held[i]), float(shares[i]), passes))
                members.append(np.flatnonzero(owner == i))
        return cls(tuple(parts), tuple(members))

    def draw(self, documents: Windows, shape: SequenceShape, rng: np.random.Generator) -> Windows:
        """The windows of one epoch: each source's documents as many times as it has `passes`."""
        drawn = []
        for part, members in zip(self.parts, self.members, strict=True):
            own = documents.select(members)
            whole = int(part.passes)
            drawn += [own.cut(shape, rng) for _ in range(whole)]
            rest = part.passes - whole
            if rest > 0:
                again = own.cut(shape, rng)
                order = rng.permutation(len(again))
                before = np.cumsum(again.scored[order]) - again.scored[order]
                drawn.append(again.select(np.sort(order[before < rest * again.scored.sum() - 0.5])))
        return Windows.joined(drawn)


def _check_names(names: list[str], mixing: Mapping[str, float]) -> None:
    for name in mixing:
        if name not in names:
            raise ConfigError(
                f"no training document is of source '{name}'",
                where=WHERE,
                remedy=f"the sources are: {', '.join(names)}",
            )
    for name in names:
        if mixing and name not in mixing:
            raise ConfigError(
                f"source '{name}' is not named",
                where=WHERE,
                remedy="give it a weight (0 leaves it out), or limit data.sources",
            )
