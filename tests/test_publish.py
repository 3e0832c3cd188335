"""Preparing into a store behind a URL: it gets what a folder gets."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3 import FaultyServer, faulty_s3, needs_s3
from test_shards import break_label_id, files_below
from tiny import FolderMaker, write_image

from data.publish import RemoteTarget
from data.shards import ShardSplit
from taxomix import main


def words(folder: Path, out: object, *more: str) -> list[str]:
    return ["prepare", "dataset=folder", f"source={folder}", f"out={out}", "samples_per_shard=2", *more]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with faulty_s3() as running:
        yield running


def there(url: str) -> dict[str, int]:
    return RemoteTarget(f"{url}/disks").sizes()


def sizes(folder: Path) -> dict[str, int]:
    return {name: len(content) for name, content in files_below(folder / "disks").items()}


@needs_s3()
@pytest.mark.parametrize("workers", [1, 2])
def test_a_url_gets_what_a_folder_gets(workers: int, make_folder: FolderMaker, tmp_path: Path, server: FaultyServer) -> None:
    folder, url = make_folder("disks", train=9), server.url("sets")
    assert main(words(folder, tmp_path / "one", "workers=1")) == 0
    assert main(words(folder, url, f"workers={workers}")) == 0
    assert there(url) == sizes(tmp_path / "one")
    remote, local = ShardSplit(f"{url}/disks", "train"), ShardSplit(tmp_path / "one" / "disks", "train")
    assert remote.manifest == local.manifest
    assert [remote.read(number).image for number in range(9)] == [local.read(number).image for number in range(9)]
    assert not files_below(tmp_path / "cache" / "taxomix" / "prepare")


@needs_s3()
def test_a_killed_upload_goes_on_and_a_changed_source_replaces(
    make_folder: FolderMaker, tmp_path: Path, server: FaultyServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, url = make_folder("disks", train=9), server.url("sets")

    class Killed(BaseException):
        pass

    put, done = RemoteTarget.put, []

    def put_or_die(target: RemoteTarget, paths: list[Path]) -> None:
        if len(done) == 3:
            raise Killed
        done.extend(paths)
        put(target, paths)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteTarget, "put", put_or_die)
        with pytest.raises(Killed):
            main(words(folder, url, "workers=1"))
    assert sorted(there(url)) == [f"train-0000{number}.tar" for number in range(3)]
    done.clear()
    with monkeypatch.context() as patch:
        patch.setattr(RemoteTarget, "put", lambda target, paths: (done.extend(paths), put(target, paths))[1])
        assert main(words(folder, url, "workers=1")) == 0
    assert not {path.name for path in done} & {f"train-0000{number}.tar" for number in range(3)}
    assert main(words(folder, tmp_path / "one", "workers=1")) == 0
    assert there(url) == sizes(tmp_path / "one")

    before = there(url)
    label = folder / "labels" / "train" / "train_03.png"
    write_image(label, np.zeros((72, 96), np.uint8))
    assert main(words(folder, url, "workers=1")) == 2
    assert "give overwrite=true" in capsys.readouterr().err
    break_label_id(folder)
    assert main(words(folder, url, "workers=1", "overwrite=true")) == 2
    assert there(url) == before  # the old version stays whole
    write_image(label, np.zeros((72, 96), np.uint8))
    assert main(words(folder, url, "workers=1", "overwrite=true", "samples_per_shard=5")) == 0
    assert len([name for name in there(url) if name.startswith("train-")]) == 2


@needs_s3()
def test_bad_input_publishes_nothing_at_a_url_and_what_is_done_is_kept(make_folder: FolderMaker, server: FaultyServer) -> None:
    folder, url = make_folder("disks", train=9), server.url("sets")
    write_image(folder / "labels" / "train" / "train_08.png", np.zeros((10, 20), np.uint8))
    assert main(words(folder, url, "workers=1")) == 2
    before = there(url)
    assert {name for name in before if name.startswith("train")} == {f"train-0000{number}.tar" for number in range(4)}
    assert not [name for name in before if name.endswith("json")]
    write_image(folder / "labels" / "train" / "train_08.png", np.zeros((72, 96), np.uint8))
    assert main(words(folder, url, "workers=1")) == 0
    assert before.items() <= there(url).items()


@needs_s3()
def test_a_bucket_that_is_not_there_is_told(make_folder: FolderMaker, server: FaultyServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(make_folder("disks"), "s3://no-such-bucket/x", "workers=1")) == 2
    error = capsys.readouterr().err
    assert "taxomix prepare: out=s3://no-such-bucket/x/disks: train-00000.tar: HTTP 404: " in error
    assert main(words(make_folder("tones"), "nonsense://x/y", "workers=1")) == 2
    assert "nonsense://x/y/tones: Protocol not known" in capsys.readouterr().err
