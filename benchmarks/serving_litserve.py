"""A run behind LitServe, for the serving benchmarks: JSON in and out, its own batching, one thread.

pip install 'nextvec[bench]'; python benchmarks/serving_litserve.py RUN PORT
"""

from __future__ import annotations

import sys
from typing import Any

import litserve
import torch

import nextvec

MAX_BATCH, BATCH_SECONDS = 64, 0.002


class Api(litserve.LitAPI):
    """The model of a run. It stands in a module because LitServe sends it to a process of its own."""

    def __init__(self, run: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_SECONDS)
        self.run = run

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.model = nextvec.load(self.run)

    def decode_request(self, request):  # without types LitServe takes any JSON
        return torch.tensor(request["input"])

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(x).raw[:, -1]

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        return list(output)

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
