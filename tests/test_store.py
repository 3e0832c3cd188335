"""Stores and the cache of remote shards: sharing, bounds, faults, kills. S3 is spoken with a real server on the loopback."""

import errno
import fcntl
import inspect
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3 import FaultyServer, faulty_s3, needs_s3

from data import store as store_module
from data.cache import CacheConfig, CacheFullError, MissingFileError, ShardCache, StoppedError, StoreError, _lock_file
from data.errors import InputError
from data.files import OpenFile
from data.prefetch import Prefetcher, Shard
from data.store import LocalStore, RemoteStore, Store, open_store

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(40)


class FakeFileSystem(fsspec.AbstractFileSystem):
    """Files in a dictionary, behind a server that does as the test says. Not an async one: those are tested with S3."""

    protocol = "fake"
    files: ClassVar[dict[str, bytes]] = {}
    errors: ClassVar[list[Exception]] = []
    opens: ClassVar[Counter[str]] = Counter()
    gate = threading.Event()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path in self.files:
            return {"name": path, "size": len(self.files[path]), "type": "file"}
        if any(name.startswith(f"{path}/") for name in self.files):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        self.info(path)
        names = sorted({"/".join(name.split("/")[: path.count("/") + 2]) for name in self.files if name.startswith(f"{path}/")})
        return [self.info(name) for name in names] if detail else names

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        FakeFileSystem.opens[path.rsplit("/", 1)[-1]] += 1
        errors, gate = self.errors, self.gate  # those of this test: a request that was given up may outlive it
        gate.wait()
        if errors:
            raise errors.pop(0)
        if path not in self.files:
            raise FileNotFoundError(path)
        return io.BytesIO(self.files[path])


fsspec.register_implementation("fake", FakeFileSystem, clobber=True)


def content(name: str, size: int) -> bytes:
    return (name.encode() + b"|") * (size // (len(name) + 1)) + b"." * (size % (len(name) + 1))


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The files of fake://root/set: 10 of 1000 bytes. Retries wait for milliseconds."""
    monkeypatch.setattr(store_module, "FIRST_DELAY_SECONDS", 0.01)
    FakeFileSystem.files = {f"root/set/{n}.tar": content(f"{n}.tar", 1000) for n in range(10)}
    FakeFileSystem.errors, FakeFileSystem.gate = [], threading.Event()
    FakeFileSystem.opens.clear()
    FakeFileSystem.gate.set()
    yield FakeFileSystem.files
    FakeFileSystem.gate.set()


def fake_store(folder: Path, *, max_bytes: int = 3500, retry: float = 1, stall: float = 5, version: str = "") -> Store:
    cache = CacheConfig(folder=folder, max_gb=max_bytes / 1e9, retry_seconds=retry, stall_seconds=stall)
    return open_store("fake://root/set", cache).versioned(version)


def read_all(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, 1 << 24, 0)
    finally:
        os.close(descriptor)


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


# Local folders


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_folder_is_read_where_it_lies(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "a.tar").write_bytes(b"12345")
    (tmp_path / "a.json").write_bytes(b"{}")
    (tmp_path / "below").mkdir()
    store = open_store(f"{prefix}{tmp_path}")
    assert isinstance(store, LocalStore)
    assert read_all(store.open("a.tar", size=9)) == b"12345"  # shorter than said: found out sample by sample
    assert store.read("a.json") == b"{}"
    assert store.list() == ["a.json", "a.tar"]
    assert store.list(".tar") == ["a.tar"]
    store.fetch("a.tar", size=5)
    assert files_below(tmp_path) == ["a.json", "a.tar"]


def test_local_errors_name_the_file(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for ask in (lambda: store.open("b.tar", size=None), lambda: store.read("b.tar")):
        with pytest.raises(FileNotFoundError, match=r"b\.tar: no such file"):
            ask()
    (tmp_path / "long").write_bytes(b"12345")
    with pytest.raises(InputError, match="long: more than 4 bytes"):
        store.read("long", limit=4)
    with pytest.raises(MissingFileError, match="nowhere"):
        open_store(tmp_path / "nowhere").list()


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "a/../../x", "", "a//b", "./a"])
@pytest.mark.parametrize("location", ["folder", "fake://root/set"])
def test_names_cannot_leave_the_store(name: str, location: str) -> None:
    with pytest.raises(InputError, match="expected a plain path below it"):
        open_store(location).open(name, size=None)


def test_wrong_locations_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nosuch://x: Protocol not known"):
        open_store("nosuch://x", CacheConfig(folder=tmp_path)).read("a")
    with pytest.raises(InputError, match=r"data\.cache\.max_gb: 0 found"):
        CacheConfig(max_gb=0)


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    assert "secret" not in open_store("https://me:secret@host/set", CacheConfig(folder=tmp_path)).url("a.tar")


# The cache, over a fake file system


def test_copies_are_whole_and_made_once(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path)
    for _ in range(2):
        assert read_all(store.open("0.tar", size=1000)) == files["root/set/0.tar"]
    assert read_all(pickle.loads(pickle.dumps(store)).open("0.tar", size=None)) == files["root/set/0.tar"]
    assert FakeFileSystem.opens == {"0.tar": 1}
    assert files_below(tmp_path) == ["0.tar"]
    assert store.read("1.tar") == files["root/set/1.tar"]
    assert files_below(tmp_path) == ["0.tar"]  # what is read whole may change, and is not kept
    assert store.list("9.tar") == ["9.tar"]


def test_many_threads_cause_one_download(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path)
    FakeFileSystem.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(lambda: read_all(store.open("0.tar", size=1000))) for _ in range(8)]
        wait_until(lambda: FakeFileSystem.opens["0.tar"])
        FakeFileSystem.gate.set()
        assert all(future.result() == files["root/set/0.tar"] for future in asked)
    assert FakeFileSystem.opens == {"0.tar": 1}


def test_the_least_recently_opened_goes_first_and_nothing_in_use(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path)
    for name in ("0.tar", "1.tar", "2.tar"):
        store.fetch(name, size=1000)
    held = [store.open("0.tar", size=1000)]  # 1.tar is now the oldest
    store.fetch("3.tar", size=1000)
    assert files_below(tmp_path) == ["0.tar", "2.tar", "3.tar"]
    held += [store.open(name, size=1000) for name in ("2.tar", "3.tar")]
    with pytest.raises(CacheFullError, match=r"no room for 4\.tar"):
        store.open("4.tar", size=1000)
    assert files_below(tmp_path) == ["0.tar", "2.tar", "3.tar"]
    os.close(held.pop(1))
    store.fetch("4.tar", size=1000)
    assert files_below(tmp_path) == ["0.tar", "3.tar", "4.tar"]
    assert [read_all(descriptor) for descriptor in held] == [files["root/set/0.tar"], files["root/set/3.tar"]]
    with pytest.raises(InputError, match=r"data\.cache\.max_gb: .* but 5\.tar"):
        store.open("5.tar", size=4000)


def test_a_copy_removed_before_it_is_locked_is_not_taken(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its room is another's by then: read from it, the cache would be larger than it looks."""
    store, flock = fake_store(tmp_path), fcntl.flock
    store.fetch("0.tar", size=1000)
    copy = store.copy_path("0.tar")
    assert copy is not None

    def late(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH and FakeFileSystem.opens["0.tar"] == 1:
            copy.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    descriptor = store.open("0.tar", size=1000)
    assert os.fstat(descriptor).st_nlink == 1
    assert read_all(descriptor) == files["root/set/0.tar"]


def test_a_file_gets_its_name_only_while_nobody_counts(files: dict[str, bytes], tmp_path: Path) -> None:
    """One who makes room might see neither of its names, and give its room to another."""
    store = fake_store(tmp_path)
    FakeFileSystem.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(store.fetch, "0.tar", size=1000)
        wait_until(lambda: FakeFileSystem.opens)
        lock = _lock_file(tmp_path / "taxomix-cache" / "lock")
        FakeFileSystem.gate.set()
        wait_until(lambda: [path for path in tmp_path.rglob("*.partial") if path.stat().st_size == 1000])
        time.sleep(0.1)
        assert "0.tar" not in files_below(tmp_path)
        os.close(lock)
        asked.result()
    assert files_below(tmp_path) == ["0.tar"]


def test_an_open_file_stays(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path, max_bytes=1500)
    opened = OpenFile(store.open("0.tar", size=1000))
    with pytest.raises(CacheFullError):
        store.fetch("1.tar", size=1000)
    assert opened.read(0, 1000) == files["root/set/0.tar"]
    del opened
    store.fetch("1.tar", size=1000)
    assert files_below(tmp_path) == ["1.tar"]


@given(sizes=st.lists(st.integers(1, 60), min_size=4, max_size=4), steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=25))
def test_room_is_refused_only_when_what_is_open_needs_it(sizes: list[int], steps: list[tuple[int, bool]]) -> None:
    """Opens and closes in any order: the bound holds, each copy is right, and a refusal is one that cannot be avoided."""
    with tempfile.TemporaryDirectory() as folder:
        cache, opened = ShardCache(CacheConfig(folder=Path(folder), max_gb=100 / 1e9)), dict[int, int]()
        try:
            for number, is_open in steps:
                if is_open and number not in opened:
                    path = cache.path("x://y", "", str(number))
                    in_use = sum(sizes[other] for other in opened)
                    try:
                        with cache.turn(path):
                            descriptor = cache.find(path, sizes[number])
                            if descriptor is None:
                                descriptor = cache.fill(path, sizes[number], lambda to: to.write_bytes(b"x" * sizes[number]) and None)  # noqa: B023
                        assert descriptor is not None
                        opened[number] = descriptor
                        assert os.fstat(descriptor).st_size == sizes[number]
                    except CacheFullError:
                        assert in_use + sizes[number] > 100
                elif not is_open and number in opened:
                    os.close(opened.pop(number))
                assert all(os.fstat(descriptor).st_nlink for descriptor in opened.values())  # nothing in use is removed
                assert sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) <= 100
        finally:
            for descriptor in opened.values():
                os.close(descriptor)


def test_a_copy_of_another_size_or_version_is_not_taken(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path)
    store.fetch("0.tar", size=1000)
    copy = store.copy_path("0.tar")
    assert copy is not None
    copy.write_bytes(b"half")
    assert read_all(store.open("0.tar", size=1000)) == files["root/set/0.tar"]
    files["root/set/0.tar"] = content("changed", 1000)
    assert read_all(store.open("0.tar", size=1000)) == content("0.tar", 1000)  # nothing tells
    assert read_all(fake_store(tmp_path, version="b").open("0.tar", size=1000)) == content("changed", 1000)


def test_only_its_own_files_are_removed(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "big.tar").write_bytes(b"x" * 9000)
    store = fake_store(tmp_path, max_bytes=1000)
    for n in range(3):
        store.fetch(f"{n}.tar", size=1000)
    assert files_below(tmp_path) == ["2.tar", "big.tar"]


# What goes wrong


def test_errors_that_may_pass_are_retried_and_logged(files: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FakeFileSystem.errors = [ConnectionResetError("reset by peer"), TimeoutError(), OSError("odd\nthing")]
    with caplog.at_level(logging.WARNING):
        assert read_all(fake_store(tmp_path).open("0.tar", size=1000)) == files["root/set/0.tar"]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split("; ")[0] for line in lines] == [
        "fake://root/set/0.tar: ConnectionResetError: reset by peer",
        "fake://root/set/0.tar: TimeoutError",
        "fake://root/set/0.tar: OSError: odd thing",
    ]


@pytest.mark.parametrize("found", [999, 1001, 0])
def test_a_torn_file_is_retried_then_an_error(files: dict[str, bytes], tmp_path: Path, found: int) -> None:
    store = fake_store(tmp_path, retry=0.1)
    files["root/set/0.tar"] = b"x" * found
    with pytest.raises(StoreError, match=rf"fake://root/set/0\.tar: {found} bytes .*, expected 1000"):
        store.open("0.tar", size=1000)
    assert FakeFileSystem.opens["0.tar"] > 2
    assert not [name for name in files_below(tmp_path) if not name.endswith(".lock")]


@pytest.mark.parametrize(("error", "kind"), [(FileNotFoundError("gone"), MissingFileError), (PermissionError("no"), StoreError)])
def test_errors_that_last_are_not_retried(files: dict[str, bytes], tmp_path: Path, error: Exception, kind: type[StoreError]) -> None:
    FakeFileSystem.errors = [error]
    with pytest.raises(kind, match=r"fake://root/set/0\.tar: "):
        fake_store(tmp_path).open("0.tar", size=1000)
    assert FakeFileSystem.opens == {"0.tar": 1}


def test_a_lost_shard_is_lost_at_once_for_a_while_and_comes_back(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fake_store(tmp_path, retry=0.1)
    FakeFileSystem.errors = [OSError("down")] * 1000
    with pytest.raises(StoreError, match="down"):
        store.open("0.tar", size=1000)
    FakeFileSystem.opens.clear()
    for _ in range(128):
        with pytest.raises(StoreError, match="down"):
            store.open("0.tar", size=1000)
    assert not FakeFileSystem.opens
    monkeypatch.setattr(store_module, "REMEMBER_SECONDS", 0)
    with pytest.raises(StoreError, match="down"):
        store.open("0.tar", size=1000)
    assert FakeFileSystem.opens == {"0.tar": 1}  # no longer worth the whole wait
    FakeFileSystem.errors = []
    assert read_all(store.open("0.tar", size=1000)) == files["root/set/0.tar"]


def test_those_who_wait_share_the_failure(files: dict[str, bytes], tmp_path: Path) -> None:
    """Each has a store of its own, as processes have: eight in turn would otherwise wait for eight times `retry_seconds`."""
    FakeFileSystem.gate.clear()
    FakeFileSystem.errors = [PermissionError("no")]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(fake_store(tmp_path).open, "0.tar", size=1000) for _ in range(8)]
        wait_until(lambda: FakeFileSystem.opens["0.tar"])
        time.sleep(0.3)  # for the others to be in line
        FakeFileSystem.gate.set()
        for future in asked:
            with pytest.raises(StoreError, match="no"):
                future.result()
    assert FakeFileSystem.opens == {"0.tar": 1}
    assert read_all(fake_store(tmp_path).open("0.tar", size=1000)) == files["root/set/0.tar"]
    assert files_below(tmp_path) == ["0.tar"]


def test_a_stalled_request_is_given_up(files: dict[str, bytes], tmp_path: Path) -> None:
    FakeFileSystem.gate.clear()
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"TimeoutError: nothing came for 0\.2 s"):
        fake_store(tmp_path, retry=0.1, stall=0.2).open("0.tar", size=1000)
    assert time.monotonic() - start < 3


def test_a_full_disk_is_said_and_leaves_nothing(files: dict[str, bytes], tmp_path: Path) -> None:
    FakeFileSystem.errors = [OSError(errno.ENOSPC, "No space left on device")]
    with pytest.raises(InputError, match=rf"data\.cache\.folder: the disk of {tmp_path} is full"):
        fake_store(tmp_path).open("0.tar", size=1000)
    assert FakeFileSystem.opens == {"0.tar": 1}
    assert files_below(tmp_path) == []


def test_a_folder_that_cannot_be_used_is_said(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache\.folder: .*file cannot be used \(Not a directory\)"):
        fake_store(tmp_path / "file").open("0.tar", size=1000)


# Fetching ahead


def steps(store: Store, *names: str) -> Callable[[int], list[Shard]]:
    return lambda step: [Shard(store, names[step], 1000)]


def test_the_next_shards_are_here_before_they_are_needed(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path, max_bytes=10_000)
    names = [f"{n}.tar" for n in range(6)]
    with Prefetcher(steps(store, *names), first_step=0, last_step=6, num_ahead=2) as ahead:
        for step, name in enumerate(names):
            ahead.advance(step)
            wait_until(lambda: store.touch(name, size=1000))  # noqa: B023
            wait_until(lambda: len(files_below(tmp_path)) == min(step + 2, 6))  # noqa: B023
            time.sleep(0.02)
            assert files_below(tmp_path) == names[: step + 2]  # no more than two ahead
    assert FakeFileSystem.opens == dict.fromkeys(names, 1)


def test_nothing_is_removed_for_what_is_needed_later(files: dict[str, bytes], tmp_path: Path) -> None:
    """Room for three: of those ahead the three soonest stay, and reading removes what is past."""
    store = fake_store(tmp_path, max_bytes=3000)
    names = [f"{n}.tar" for n in range(8)]
    with Prefetcher(steps(store, *names), first_step=0, last_step=8, num_ahead=6, num_parallel=1) as ahead:
        for step in range(6):
            ahead.advance(step)
            wait_until(lambda: files_below(tmp_path) == names[step : step + 3])  # noqa: B023
            assert read_all(store.open(names[step], size=1000)) == files[f"root/set/{names[step]}"]
    assert max(FakeFileSystem.opens.values()) == 1


def test_a_reader_makes_room_from_the_past_then_from_what_is_needed_last(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path, max_bytes=4000)
    names = [f"{n}.tar" for n in range(4)]
    with Prefetcher(steps(store, *names), first_step=0, last_step=4, num_ahead=4) as ahead:
        wait_until(lambda: files_below(tmp_path) == names)
        copies = {name: path for name in names if (path := store.copy_path(name))}
        start = time.time_ns()
        ahead.advance(1)
        wait_until(lambda: copies["1.tar"].stat().st_mtime_ns > start and copies["3.tar"].stat().st_mtime_ns > start)
        time.sleep(0.05)
        ahead.close()
        for other, left in (("8.tar", ["1.tar", "2.tar", "3.tar", "8.tar"]), ("9.tar", ["1.tar", "2.tar", "8.tar", "9.tar"])):
            store.fetch(other, size=1000)
            assert files_below(tmp_path) == left


def test_a_copy_that_another_removed_is_fetched_again(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path)
    with Prefetcher(steps(store, *["0.tar"] * 9), first_step=0, last_step=9) as ahead:
        wait_until(lambda: store.touch("0.tar", size=1000))
        copy = store.copy_path("0.tar")
        assert copy is not None
        copy.unlink()
        ahead.advance(1)
        wait_until(lambda: store.touch("0.tar", size=1000))


def test_errors_ahead_are_logged_and_the_rest_goes_on(files: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = fake_store(tmp_path)
    with Prefetcher(steps(store, "gone.tar", "1.tar"), first_step=0, last_step=2):
        wait_until(lambda: store.touch("1.tar", size=1000))
    assert [record.getMessage() for record in caplog.records] == ["fetching ahead: fake://root/set/gone.tar: no such file"]


def test_close_does_not_wait_for_a_server(files: dict[str, bytes], tmp_path: Path) -> None:
    store = fake_store(tmp_path, stall=30)
    FakeFileSystem.gate.clear()
    ahead = Prefetcher(steps(store, "0.tar", "1.tar"), first_step=0, last_step=2)
    wait_until(lambda: len(FakeFileSystem.opens) == 2)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):  # in line behind the first
        store.fetch("0.tar", size=1000, stop=stop)
    start = time.monotonic()
    ahead.close()
    assert time.monotonic() - start < 2
    assert not [name for name in files_below(tmp_path) if name.endswith(".partial")]


# A real server


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with faulty_s3() as server:
        yield server


SIZE = 300_000


@pytest.fixture
def s3_store(server: FaultyServer, tmp_path: Path) -> Iterator[RemoteStore]:
    """A store of a.tar and b.tar, SIZE bytes each; it gives a server two seconds and asks again for six."""
    for name in ("a.tar", "b.tar"):
        server.put(f"set/{name}", content(name, SIZE))
    server.faults.gets.clear()
    cache = CacheConfig(folder=tmp_path, max_gb=2.5 * SIZE / 1e9, retry_seconds=6, stall_seconds=2)
    store = open_store(server.url("set"), cache)
    assert isinstance(store, RemoteStore)
    yield store
    server.faults.clear()


@needs_s3()
def test_s3_reads_lists_and_finds(server: FaultyServer, s3_store: RemoteStore) -> None:
    assert s3_store.list(".tar") == ["a.tar", "b.tar"]
    server.put("set/c.tar", b"new")
    assert s3_store.read("c.tar") == b"new"  # no listing of old is asked
    server.delete("set/c.tar")
    with pytest.raises(FileNotFoundError):
        s3_store.read("c.tar")
    with pytest.raises(InputError, match="300000 bytes found"):
        s3_store.read("a.tar", limit=1000)
    for size in (SIZE, None):
        assert read_all(s3_store.open("a.tar", size=size)) == content("a.tar", SIZE)
    assert server.faults.gets["set/a.tar"] == 1
    with pytest.raises(MissingFileError):
        open_store(server.url("nowhere"), s3_store._cache_config).list()


@needs_s3()
@pytest.mark.parametrize("fault", ["503", "truncated", "stalled", "silent"])
def test_s3_faults_that_pass(server: FaultyServer, s3_store: RemoteStore, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    if fault == "503":
        server.faults.status("a.tar", 503, times=2)
    elif fault == "truncated":
        server.faults.truncate("a.tar", 100_000)
    else:
        server.faults.stall("a.tar", 100_000 if fault == "stalled" else None)
    assert read_all(s3_store.open("a.tar", size=SIZE)) == content("a.tar", SIZE)
    assert server.faults.gets["set/a.tar"] == (3 if fault == "503" else 2)
    if fault == "503":
        assert [record.getMessage().split(";")[0] for record in caplog.records] == [f"{s3_store.url('a.tar')}: HTTP 503: told to fail"] * 2


@needs_s3()
@pytest.mark.parametrize(("status", "kind"), [(403, StoreError), (404, MissingFileError)])
def test_s3_faults_that_last(server: FaultyServer, s3_store: RemoteStore, status: int, kind: type[StoreError]) -> None:
    server.faults.status("a.tar", status)
    start = time.monotonic()
    with pytest.raises(kind, match=r"s3://.*/set/a\.tar: "):
        s3_store.open("a.tar", size=SIZE)
    assert time.monotonic() - start < 2
    assert server.faults.gets["set/a.tar"] == 1
    assert read_all(s3_store.open("b.tar", size=SIZE)) == content("b.tar", SIZE)


@needs_s3()
def test_s3_that_stays_silent_is_given_up_in_time(server: FaultyServer, s3_store: RemoteStore) -> None:
    server.faults.stall("a.tar", times=1000)
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"a\.tar: TimeoutError: nothing came for 2 s"):
        s3_store.open("a.tar", size=SIZE)
    assert 4 < time.monotonic() - start < 10


@needs_s3()
def test_s3_that_is_gone_is_given_up_in_time(tmp_path: Path) -> None:
    with faulty_s3() as server:
        url = server.url("set")
        store = open_store(url, CacheConfig(folder=tmp_path, retry_seconds=1, stall_seconds=2))
        server.put("set/a.json", b"{}")
        assert store.read("a.json") == b"{}"
        server.stop()
        with pytest.raises(StoreError, match=r"set/a\.json: "):
            store.read("a.json")


def start_child(code: str, *words: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


FETCH = """
import sys
from pathlib import Path
from data.cache import CacheConfig
from data.store import open_store
open_store(sys.argv[1], CacheConfig(folder=Path(sys.argv[2]), max_gb=0.001)).fetch("a.tar", size=int(sys.argv[3]))
"""


@needs_s3()
def test_a_killed_download_leaves_no_lock_and_no_half_file(server: FaultyServer, s3_store: RemoteStore, tmp_path: Path) -> None:
    server.faults.stall("a.tar", 200_000, times=1)
    child = start_child(FETCH, server.url("set"), str(tmp_path), str(SIZE))
    with child, ThreadPoolExecutor(1) as pool:
        wait_until(lambda: any(path.stat().st_size > 100_000 for path in tmp_path.rglob("*.partial")), 20)
        waiting = pool.submit(s3_store.open, "a.tar", size=SIZE)
        time.sleep(0.3)
        assert not waiting.done()
        os.kill(child.pid, signal.SIGKILL)
        start = time.monotonic()
        assert read_all(waiting.result()) == content("a.tar", SIZE)
        assert time.monotonic() - start < 5
    assert server.faults.gets["set/a.tar"] == 2
    assert files_below(tmp_path) == ["a.tar"]


HAMMER = """
import os, random, sys, time
from pathlib import Path
from data.cache import CacheConfig, CacheFullError
from data.store import open_store

url, folder, seed, max_bytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store = open_store(url, CacheConfig(folder=folder, max_gb=max_bytes / 1e9, retry_seconds=10))
draw, held, reads = random.Random(seed), {}, 0
while reads < 150:
    number = draw.randrange(12)
    size = 10_000 + 3_000 * number
    if number not in held:
        while len(held) >= 2:
            os.close(held.pop(next(iter(held))))
        try:
            held[number] = store.open(f"{number}.tar", size=size)
        except CacheFullError:
            while held:
                os.close(held.popitem()[1])
            time.sleep(0.01)
            continue
    assert os.pread(held[number], 1 << 20, 0) == content(f"{number}.tar", size), number
    assert all(os.fstat(descriptor).st_nlink for descriptor in held.values()), "removed while in use"
    reads += 1
"""


@needs_s3()
def test_processes_share_a_small_cache(server: FaultyServer, tmp_path: Path) -> None:
    """Three processes, twelve shards of 318 kB together, room for 150 kB: all they read is right and the bound always holds."""
    for number in range(12):
        server.put(f"many/{number}.tar", content(f"{number}.tar", 10_000 + 3_000 * number))
    bound, seen = 150_000, list[int]()
    code, words = inspect.getsource(content) + HAMMER, (server.url("many"), str(tmp_path))
    with ExitStack() as stack:
        children = []
        for seed in range(3):
            children.append(stack.enter_context(start_child(code, *words, str(seed), str(bound))))
            stack.callback(children[-1].kill)
        wait_until((tmp_path / "taxomix-cache" / "lock").exists, 20)
        while any(child.poll() is None for child in children):
            seen.append(bytes_below(tmp_path))
            time.sleep(0.005)
        for child in children:
            errors = child.communicate()[1]
            assert child.returncode == 0, errors
    assert bound / 2 < max(seen) <= bound
    assert server.faults.gets["many/0.tar"] > 1  # it was removed meanwhile
    assert not [name for name in files_below(tmp_path) if name.endswith((".partial", ".lock"))]


def bytes_below(folder: Path) -> int:
    """All that lies there. Room changes hands only under the cache's lock; a file that is renamed meanwhile counts once."""
    lock = _lock_file(folder / "taxomix-cache" / "lock")
    sizes = {}
    for path in folder.rglob("*"):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        if path.is_file():
            sizes[found.st_ino] = found.st_size
    os.close(lock)
    return sum(sizes.values())
