"""What is read where only time and agreement are measured: vectors that mean nothing, as documents are."""

from __future__ import annotations

import numpy as np

from nextvec.data.windows import FloatArray


def sample_contexts(dimension: int, context: int, length: float, batch: int, seed: int = 0) -> FloatArray:
    """float32 [batch, context, dimension]: vectors of about `length`, neighbours alike (cosine about .5), the
    same at every call; the first rows of a larger batch are other ones."""
    rng = np.random.default_rng([seed, batch])
    topic = rng.standard_normal((batch, 1, dimension), dtype=np.float32)
    vectors = topic + rng.standard_normal((batch, context, dimension), dtype=np.float32)
    scaled: FloatArray = vectors * np.float32(length / np.sqrt(2 * dimension))
    return scaled
