"""Stores and runs in an object store: s3://, gs:// and az:// addresses, through the package obstore.

What is read is copied once into a folder of this machine, and from then on an opening costs one listing:
a file is fetched again only where the server's tag of it has changed. Whole files, not ranges: the checksums
of a store are over whole shards, so a range could not be checked. What is written is made in that folder and
then put, the manifest last and only if nobody else has put one meanwhile; no other file replaces another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.disk import LOCK, MAX_JSON_BYTES, atomic_write, is_own, locked, sha256_file, write_json
from nextvec.errors import BusyError, DiskError, MissingDependencyError, NextvecError
from nextvec.seals import CHANGED

if TYPE_CHECKING:
    from obstore.store import ObjectStore

ADDRESS = re.compile(r"(s3|gs|az|abfss?)://[^/]+/.+")
CACHE = "NEXTVEC_CACHE"
"""Environment variable: the folder of the copies; ~/.cache/nextvec unless given."""
STORE = "store.json"
LAST = (STORE, "metrics.json", "ensemble.json", "export.json", "decoder.json")
"""Manifests: what a complete folder has, and is put last."""
LOCAL_ONLY = "last"
"""The folder of a run that only resuming it needs."""
MOST_FILES = 100_000
BLOCK = 8 * 2**20
AGAIN = "give the command again"
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role, for s3://; "
    "GOOGLE_SERVICE_ACCOUNT for gs://; AZURE_STORAGE_ACCOUNT_KEY for az://"
)


def is_remote(address: str) -> bool:
    """Whether this is an address in an object store, and no path."""
    return ADDRESS.fullmatch(address) is not None


def fetch(address: str) -> Path:
    """A folder with what lies at the address: a store, or a run that is complete. Only to be read.

    Raises:
        MissingDependencyError: obstore is not installed.
        DiskError: nothing there, no such bucket, no rights, no network, no space here; or a file that
            changed while it was read, or is not what the store's manifest says.
    """
    place = _Place(address)
    with place.locked():
        place.pull()
    return place.folder


@contextlib.contextmanager
def written(address: str) -> Iterator[Path]:
    """Yield a folder to write to: what lies at the address, or what an earlier attempt left here; what is in
    it at the end is put there.

    Raises: as `fetch`; DiskError also where somebody else has written there meanwhile.
    """
    place = _Place(address)
    with place.locked():
        found = place.listing()
        if STORE not in found and place.manifest(found) is not None:
            raise place.error("there is something finished already", "give another address with --out")
        if place.manifest(found) != place.manifest(place.held):  # else an attempt that was stopped goes on
            place.pull(found)
    yield place.folder
    with place.locked():
        place.push()


class _Place:
    """An address and its copy here.

    Attributes:
        held: path -> tag and size of what was fetched or put: what the copy is of.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.store = _open(self.address)
        root = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "nextvec")
        digest = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        self.home = root / "remote" / digest
        self.folder = self.home / re.sub(r"[^A-Za-z0-9._-]", "_", self.address.rpartition("/")[2])
        self._note = self.home / "held.json"
        self.held: dict[str, dict[str, Any]] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in the folder of the copy; waits for another."""
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.home))
                    break
                except BusyError:
                    time.sleep(0.2)
            if self._note.is_file():
                self.held = json.loads(self._note.read_text(encoding="utf-8"))["held"]
            yield

    def listing(self) -> dict[str, dict[str, Any]]:
        """path -> e_tag and size of every object at the address. Raises DiskError."""
        import obstore

        found: dict[str, dict[str, Any]] = {}
        with self.answered(""):
            for batch in obstore.list(self.store):
                for meta in batch:
                    path = str(meta["path"])
                    if {"", ".", ".."} & set(path.split("/")) or len(found) >= MOST_FILES:
                        remedy = "give the folder of a store or run"
                        raise self.error(f"holds {path!r}, or too many files", remedy)
                    found[path] = {"e_tag": meta["e_tag"], "size": meta["size"]}
        return found

    @staticmethod
    def manifest(files: Mapping[str, Any]) -> Any:
        """The tag of the manifest among these; None without one."""
        return next((files[name]["e_tag"] for name in LAST if name in files), None)

    def pull(self, found: dict[str, dict[str, Any]] | None = None) -> None:
        """Make the copy what lies at the address. Raises DiskError."""
        found = self.listing() if found is None else found
        last = next((name for name in LAST if name in found), None)
        if last is None:
            what = "holds no store and no finished run" if found else "nothing is there"
            raise self.error(what, "check the address")
        digests = self._digests(found) if last == STORE else {}
        wanted = [p for p in found if p not in LAST and not p.startswith(f"{LOCAL_ONLY}/")]
        if last == STORE:
            wanted = [p for p in wanted if p in digests or "/" not in p]
            for path in digests.keys() - found.keys():
                raise self.error(f"lacks {path}, which its manifest names", "copy the store again", path)
        missing = [p for p in [*wanted, last] if self.held.get(p) != found[p] or not self._whole(p, found[p])]
        self.home.mkdir(parents=True, exist_ok=True)
        if sum(found[path]["size"] for path in missing) > shutil.disk_usage(self.home).free:
            remedy = f"set {CACHE} to another disk"
            raise DiskError("has no room for the copy", where=self.home, remedy=remedy)
        for path in missing:  # the manifest is the last of them
            self._get(path, found[path], digests.get(path))
            self.held[path] = found[path]
        self.held = {path: found[path] for path in [*wanted, last]}
        self._remember()
        for file in [f for f in self.folder.rglob("*") if f.is_file() and not is_own(f)]:
            if file.relative_to(self.folder).as_posix() not in self.held:
                file.unlink()

    def _digests(self, found: Mapping[str, Any]) -> dict[str, str]:
        """path -> sha256 of the shards, by the manifest; what is wrong with it is told when it is opened."""
        import obstore

        if found[STORE]["size"] > MAX_JSON_BYTES:
            raise self.error(f"is larger than {MAX_JSON_BYTES >> 20} MiB", "copy the store again", STORE)
        with self.answered(STORE):
            got = obstore.get(self.store, STORE, options={"if_match": found[STORE]["e_tag"]})
            text = bytes(got.bytes())
        try:
            return {
                f"{part}/{shard['name']}.{ending}": str(shard[f"{part}_sha256"])
                for shard in json.loads(text)["shards"]
                for part, ending in (("vectors", "npy"), ("chunks", "parquet"), ("documents", "parquet"))
            }
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self.error("is not the manifest of a store", "copy the store again", STORE) from None

    def _whole(self, path: str, meta: Mapping[str, Any]) -> bool:
        file = self.folder / path
        return file.is_file() and file.stat().st_size == meta["size"]

    def _get(self, path: str, meta: Mapping[str, Any], digest: str | None) -> None:
        import obstore

        read = hashlib.sha256()

        def save(file: Any) -> None:
            got = obstore.get(self.store, path, options={"if_match": meta["e_tag"]})
            left = meta["size"]
            for block in got.stream(min_chunk_size=BLOCK):
                left -= len(block)
                if left < 0:
                    break
                read.update(block)
                file.write(block)
            if left or digest not in (None, read.hexdigest()):
                what = "is of another size" if left else CHANGED
                raise self.error(what, "copy the store again or ingest it anew", path)

        with self.answered(path):
            atomic_write(self.folder / path, save)

    def push(self) -> None:
        """Put what the copy holds and the address lacks, the manifest last. Raises DiskError."""
        files = sorted(
            file.relative_to(self.folder).as_posix()
            for file in self.folder.rglob("*")
            if file.is_file() and file.name != LOCK and not is_own(file)
        )
        last = next((name for name in LAST if name in files), None)
        if last is None:
            raise self.error("nothing that is complete was made", "see the message above")
        about = [p for p in files if p.endswith("README.md")]  # follows the manifest, and vouches for nothing
        for path in files:
            if path not in (last, *about, *self.held) and not path.startswith(f"{LOCAL_ONLY}/"):
                self._put(path, "create")
        tag = self.held.get(last, {}).get("e_tag")
        self._put(last, "create" if tag is None else {"e_tag": tag})
        for path in about:
            self._put(path, "overwrite")
        self._remember()

    def _put(self, path: str, mode: Any) -> None:
        """Put one file. One that is there already must be the same, unless `mode` says which it replaces."""
        import obstore

        file = self.folder / path
        size, digest = file.stat().st_size, sha256_file(file)
        with self.answered(path):
            try:
                tag = obstore.put(self.store, path, file, mode=mode, use_multipart=False)["e_tag"]
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                there = obstore.get(self.store, path)
                read = hashlib.sha256()
                for block in there.stream(min_chunk_size=BLOCK):
                    read.update(block)
                if read.hexdigest() != digest:
                    remedy = "when no other writer is at work; delete it, if it is left of one that died"
                    raise self.error("somebody else has written it", f"{AGAIN} {remedy}", path) from None
                tag = there.meta["e_tag"]
        self.held[path] = {"e_tag": tag, "size": size}

    def _remember(self) -> None:
        write_json(self._note, {"address": self.address, "held": self.held})

    def error(self, message: str, remedy: str, path: str = "") -> DiskError:
        """An error of an object."""
        return DiskError(message, where="/".join(filter(None, (self.address, path))), remedy=remedy)

    @contextlib.contextmanager
    def answered(self, path: str) -> Iterator[None]:
        """What the server refuses as a DiskError."""
        from obstore import exceptions as of

        try:
            yield
        except NextvecError:
            raise
        except (of.BaseError, FileNotFoundError) as e:
            reason = str(e)
            if isinstance(e, of.PreconditionError):
                raise self.error("has changed while it was read", AGAIN, path) from None
            if "NoSuchBucket" in reason:
                raise self.error("there is no such bucket", "check the address") from None
            if isinstance(e, FileNotFoundError):
                raise self.error("is gone", AGAIN, path) from None
            # asked of the machine, in the cloud that it is not in
            if "/latest/" in reason or "metadata" in reason:
                raise self.error("no credentials are given", CREDENTIALS) from None
            refused = isinstance(e, (of.PermissionDeniedError, of.UnauthenticatedError))
            if refused or "403" in reason or "401" in reason:
                raise self.error("the server refuses these credentials", CREDENTIALS, path) from None
            message = f"cannot be reached ({reason.partition(chr(10))[0]})"
            raise self.error(message, "check the address and the network", path) from None


def _open(address: str) -> ObjectStore:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        message = "an address in an object store needs the package obstore"
        raise MissingDependencyError(message, where=address, remedy="pip install 'nextvec[s3]'") from None
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return from_url(
            address,
            client_options={"timeout": "120s", "connect_timeout": "10s", "allow_http": plain},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=60)},
        )
    except BaseError as e:
        reason = str(e).partition("\n")[0]
        remedy = CREDENTIALS if "Missing" in reason else "check the address"
        raise DiskError(reason, where=address, remedy=remedy) from None
