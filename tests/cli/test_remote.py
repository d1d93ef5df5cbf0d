"""Stores and runs in an object store: a real S3 server on this machine."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from nextvec import remote
from nextvec.corpus.store import Store
from nextvec.errors import DiskError

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A client of the server, which has an empty bucket; nothing is copied here yet."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server, remote.CACHE: str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="bucket")
    for found in client.list_objects_v2(Bucket="bucket").get("Contents", ()):
        client.delete_object(Bucket="bucket", Key=found["Key"])
    return client


@pytest.fixture
def parts(world: Store, tmp_path: Path) -> tuple[str, ...]:
    """The flags that ingest the vectors of `world`."""
    np.save(tmp_path / "v.npy", world.vectors[:])
    pq.write_table(world.chunks.select(["doc_id", "position", "text", "source"]), tmp_path / "c.parquet")
    vectors, chunks = tmp_path / "v.npy", tmp_path / "c.parquet"
    return (f"--vectors={vectors}", f"--chunks={chunks}", "--encoder=world", "--dtype=float32", "--quiet")


def test_a_store_and_a_run_at_an_address_answer_as_in_a_folder(
    cli, s3, parts: tuple[str, ...], tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, run = tmp_path / "store", "s3://bucket/some/store", "s3://bucket/run"
    for out in (here, there):
        done = cli("ingest", "--out", out, *parts)
        assert done.code == 0, done.err
    keys = {found["Key"] for found in s3.list_objects_v2(Bucket="bucket")["Contents"]}
    assert {"some/store/store.json", "some/store/vectors/0000.npy", "some/store/README.md"} <= keys
    monkeypatch.setenv(remote.CACHE, str(tmp_path / "elsewhere"))  # another machine
    trained = cli("train", there, f"--out={run}", "--model=lstm", *tiny, "--quiet")
    assert trained.code == 0, trained.err
    monkeypatch.setenv(remote.CACHE, str(tmp_path / "third"))
    flags = ("--split=test", "--json=-", "--no-speed", "--baselines=copy-last")
    far = cli("evaluate", run, "--store", there, *flags)
    near = cli("evaluate", remote.fetch(run), "--store", here, *flags)
    assert (far.code, near.code) == (0, 0), far.err
    rows = [{row["name"]: row["cosine"] for row in found.json["rows"]} for found in (far, near)]
    assert list(rows[0].values()) == list(rows[1].values())
    monkeypatch.setattr(remote._Place, "_get", lambda *_: pytest.fail("it is here already"))
    assert "40 with 480 chunks" in cli("info", there).out
    again = cli("train", there, f"--out={run}", "--model=lstm", *tiny)
    assert "there is something finished already; give another address" in again.err


def test_what_was_changed_there_is_noticed(cli, s3, parts: tuple[str, ...], tmp_path: Path) -> None:
    address = "s3://bucket/store"
    assert cli("ingest", "--out", address, *parts).code == 0
    body = bytearray(s3.get_object(Bucket="bucket", Key="store/vectors/0000.npy")["Body"].read())
    body[-1] ^= 1
    s3.put_object(Bucket="bucket", Key="store/vectors/0000.npy", Body=bytes(body))
    damaged = cli("info", address)
    assert (damaged.code, damaged.out) == (2, "")
    assert f"{address}/vectors/0000.npy: has changed since it was written (sha256 differs)" in damaged.err
    s3.delete_object(Bucket="bucket", Key="store/vectors/0000.npy")
    assert "lacks vectors/0000.npy, which its manifest names" in cli("info", address).err


def test_of_two_writers_one_wins(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the store is new or grows, and whichever of its files they meet at."""
    address = "s3://bucket/store"

    def write(folder: Path, name: str, text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / "store.json").write_text(json.dumps({"shards": [], "by": text}))

    for round_, shard in enumerate(("a", "b")):
        refused = pytest.raises(DiskError, match="somebody else has written it")
        with refused, remote.written(address) as slow:
            monkeypatch.setenv(remote.CACHE, str(tmp_path / "other machine"))
            with remote.written(address) as fast:
                write(fast, shard, f"fast {round_}")
            write(slow, shard if round_ else "another", f"slow {round_}")
        monkeypatch.setenv(remote.CACHE, str(tmp_path / "cache"))
        found = s3.get_object(Bucket="bucket", Key="store/store.json")["Body"].read()
        assert json.loads(found)["by"] == f"fast {round_}"
        assert (
            s3.get_object(Bucket="bucket", Key=f"store/{shard}")["Body"].read() == f"fast {round_}".encode()
        )
        s3.delete_object(Bucket="bucket", Key="store/another")
    with remote.written(address) as folder:  # the loser begins from what the winner wrote
        assert (folder / "b").read_text() == "fast 1"
        write(folder, "c", "then")
    assert json.loads(s3.get_object(Bucket="bucket", Key="store/store.json")["Body"].read())["by"] == "then"


def test_what_stops_a_put_can_be_gone_on_with(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    put, seen = remote._Place._put, []

    def stops(self, path: str, mode: object) -> None:
        seen.append(path)
        if path == "store.json" and len(seen) == 2:
            raise KeyboardInterrupt
        put(self, path, mode)

    monkeypatch.setattr(remote._Place, "_put", stops)
    with pytest.raises(KeyboardInterrupt), remote.written("s3://bucket/s") as folder:
        folder.mkdir(parents=True)
        (folder / "a").write_text("a")
        (folder / "store.json").write_text("{}")
    with pytest.raises(DiskError, match="no store and no finished run"):
        remote.fetch("s3://bucket/s")
    with remote.written("s3://bucket/s") as folder:
        assert (folder / "a").read_text() == "a"
    assert seen == ["a", "store.json", "a", "store.json"]


def test_errors_say_what_to_do(cli, s3, world: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb, address, output in (
        ("info", "s3://nowhere/store", "s3://nowhere/store: there is no such bucket; check the address"),
        ("info", "s3://bucket/none", "s3://bucket/none: nothing is there"),
        ("delete", "s3://bucket/store", "`nextvec delete` writes to folders of this machine; copy it there"),
    ):
        done = cli(verb, address, *(["id"] if verb == "delete" else []))
        assert (done.code, done.out) == (2, "")
        assert output in done.err
    refused = cli("matrix", world.path, "--models", "lstm", "--out", "s3://bucket/m")
    assert "`nextvec matrix` writes to folders of this machine" in refused.err
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        assert "Missing AccessKeyId; set AWS_ACCESS_KEY_ID" in cli("info", "s3://bucket/store").err
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        patch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
        output = cli("info", "s3://bucket/store").err
        assert "s3://bucket/store: no credentials are given; set AWS_ACCESS_KEY_ID and" in output
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert "cannot be reached" in cli("info", "s3://bucket/store").err
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert "pip install 'nextvec[s3]'" in cli("info", "s3://bucket/store").err
