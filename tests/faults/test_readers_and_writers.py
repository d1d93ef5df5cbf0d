"""Reading while another writes: the state before or the one after, or an error that names the file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.disk import read_json, write_json
from nextvec.errors import RunError
from nextvec.models.registry import build
from nextvec.models.saving import load_model, save_model


def each(write: Callable[[int], object], numbers: range) -> None:
    for number in numbers:
        write(number)


def while_running(writes: Callable[[], None], look: Callable[[], None]) -> int:
    """Call `look` until `writes`, in a thread of its own, has come to its end; how often."""
    looked = 0
    with ThreadPoolExecutor(1) as threads:
        writing: Future[None] = threads.submit(writes)
        while not writing.done():
            look()
            looked += 1
        writing.result()
    look()
    return looked + 1


def test_a_store_that_grows_is_read_as_some_number_of_whole_shards(tmp_path: Path) -> None:
    encoder = {"name": "a", "fingerprint": "a"}
    with StoreWriter(
        tmp_path / "store", encoder=encoder, dimension=4, chunker={}, dtype="float32", normalised=False
    ) as writer:

        def add(number: int) -> None:
            texts = [f"{number} {k}" for k in range(3)]
            made = NewDocument.from_chunks(f"d{number}", texts, source="s", title="")
            writer.add_shard([made], np.full((3, 4), number + 1, np.float32), path="test")

        add(0)

        def look() -> None:
            found = Store.open(tmp_path / "store")
            values = np.asarray(found.vectors)
            assert len(values) == len(found.chunks) == 3 * len(found.documents)
            assert (values[:, 0] == np.repeat(np.arange(len(found.documents)) + 1, 3)).all()

        assert while_running(lambda: each(add, range(1, 13)), look) > 1


def test_a_model_that_is_saved_again_is_one_of_the_two_or_an_error(tmp_path: Path) -> None:
    models = [build("mlp", hidden=8, d_embed=8) for _ in range(2)]
    known = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    save_model(tmp_path, models[0])
    whole = []

    def look() -> None:
        try:
            found = load_model(tmp_path)[0].state_dict()
        except RunError as e:
            assert str(tmp_path) in str(e)  # noqa: PT017 - three files are renamed one after the other
        else:
            whole.append(any(all(torch.equal(found[n], v) for n, v in each.items()) for each in known))

    while_running(lambda: each(lambda n: save_model(tmp_path, models[n % 2]), range(12)), look)
    assert whole
    assert all(whole)


def test_a_file_that_is_replaced_is_never_half(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": [0] * 5000}, sealed=True)

    def look() -> None:
        assert len(set(read_json(path, RunError)["n"])) == 1

    while_running(lambda: each(lambda n: write_json(path, {"n": [n] * 5000}, sealed=True), range(40)), look)
