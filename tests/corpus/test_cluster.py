"""Encoding by a Ray cluster of this machine, with the packaged encoder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextvec.corpus.chunking import make_chunker
from nextvec.corpus.encoders import EncoderConfig
from nextvec.corpus.ingest import ingest
from nextvec.errors import EncoderError, MissingDependencyError
from passages import documents

CONFIG = EncoderConfig(device="cpu", precision="float32")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for name, text in documents().items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def put(texts: Path, out: Path, engine: str, config: EncoderConfig = CONFIG) -> dict[str, str]:
    """Ingest in small shards; the hash of every file of the store."""
    chunker = make_chunker("sentence", {"max_words": 20})
    report = ingest(
        texts, out, encoder=config, chunker=chunker, shard_chunks=40, engine=engine, quiet=True
    )  # fmt: skip
    assert (report.truncated, report.path) == (0, "cpu float32")
    files = (p for p in sorted(out.rglob("*")) if p.is_file())
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers, each with one thread as this process."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'nextvec[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
             object_store_memory=2**27)  # fmt: skip
    yield
    ray.shutdown()


def workers() -> list[int]:
    """The processes that encode at the moment."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,command="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return [int(row[0]) for row in rows if row[1].startswith("ray::encode_shard")]


@pytest.mark.slow
def test_a_cluster_writes_the_same_store_even_where_a_worker_is_killed(
    texts: Path, tmp_path: Path, cluster: None
) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    here = put(texts, tmp_path / "here", "local")
    torch.set_num_threads(before)
    assert sum(name.startswith("vectors/") for name in here) == 5
    killed: list[int] = []
    over = threading.Event()

    def kill_one() -> None:
        while not killed and not over.is_set():
            for pid in workers()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        there = put(texts, tmp_path / "there", "ray")
    finally:
        over.set()
        thread.join()
    assert killed
    assert there == here


@pytest.mark.slow
def test_what_goes_wrong_on_a_worker_is_told(
    texts: Path, tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextvec.corpus import ingest as module

    gone = EncoderConfig(name=str(tmp_path / "gone"), device="cpu", precision="float32")
    monkeypatch.setattr(module, "settled", lambda config, encoder: gone)  # it is on this machine only
    with pytest.raises(EncoderError, match="gone"):
        put(texts, tmp_path / "out", "ray")
    assert not (tmp_path / "out").exists()


def test_without_ray_it_is_named(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'nextvec\[ray\]'"):
        put(texts, tmp_path / "out", "ray")
