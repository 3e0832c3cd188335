"""Files of weights: read without unpickling, downloaded once, whole or not at all."""

import argparse
import hashlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from data.errors import InputError
from models.weight_files import fetch, fetch_imagenet, read_weights
from taxomix import main


def test_a_file_that_needs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "full.pth"
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": {}}, path)
    with pytest.raises(InputError, match=r"full.pth: holds Python objects \(argparse.Namespace\).*save its state dict anew") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello, world", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_file_of_weights_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"some\.pth: not readable as a file of torch\.save") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


class Server(ThreadingHTTPServer):
    """Gives `content` for every path, and counts."""

    content = b""
    requests = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/models/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def name_of(content: bytes) -> str:
    return f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    server.content = saved({"a": torch.ones(2**19)})
    url = server.url(name_of(server.content))
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: fetch(url, tmp_path / "cache"), range(8)))
    assert paths == {tmp_path / "cache" / name_of(server.content)}
    assert paths.pop().read_bytes() == server.content
    assert server.requests == 1


def test_a_download_of_other_bytes_is_told_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = b"please log in"
    with pytest.raises(InputError, match=r"/models/resnet18-00000000.pth: .* expected 00000000"):
        fetch(server.url("resnet18-00000000.pth"), tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_damaged_file_in_the_cache_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "resnet18-00000000.pth").write_bytes(b"half")
    with pytest.raises(InputError, match=f"{tmp_path}/resnet18-00000000.pth: a file cut short or another one found"):
        fetch(server.url("resnet18-00000000.pth"), tmp_path)
    assert server.requests == 0


def test_without_network_the_error_names_url_file_and_folder(server: Server, tmp_path: Path) -> None:
    url = server.url("resnet18-00000000.pth")
    server.server_close()
    with pytest.raises(InputError) as caught:
        fetch(url, tmp_path)
    assert str(caught.value).startswith(f"{url}: cannot be downloaded (")
    assert str(caught.value).endswith(f"put it into {tmp_path} as resnet18-00000000.pth")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch(url, tmp_path / "file")


def test_names_of_torchvisions_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(url: str, folder: Path) -> Path:
        asked.append((url, folder))
        return folder

    monkeypatch.setattr("models.weight_files.fetch", note)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    members = get_model_weights("resnet101").__members__
    fetch_imagenet("imagenet", "resnet101")
    fetch_imagenet("imagenet1k_v2", "resnet101")
    assert asked == [(members[f"IMAGENET1K_V{version}"].url, tmp_path / "checkpoints") for version in (1, 2)]
    with pytest.raises(InputError, match="IMAGENET1K_V2 found, torchvision's resnet18 has IMAGENET1K_V1; choose one"):
        fetch_imagenet("IMAGENET1K_V2", "resnet18")


def test_imagenet_by_the_command(
    tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a file of random numbers under a name of its own hash, from a server of ours."""
    torch.manual_seed(1)
    server.content = saved(get_model("resnet18", weights=None).state_dict())
    monkeypatch.setattr(type(get_model_weights("resnet18").IMAGENET1K_V1), "url", server.url(name_of(server.content)))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    words = [*tiny_job, "run.name=some", "loop.steps=1", "model.weights=imagenet"]
    assert main(["plan", *words[1:]]) == 0
    assert main(words) == 0
    assert server.requests == 1
    assert (tmp_path / "torch" / "hub" / "checkpoints" / name_of(server.content)).is_file()
    text = (tmp_path / "runs" / "some" / "weights.txt").read_text()
    assert "named as in torchvision's resnet18; 2 tensors of it are not used" in text
    assert "not used: fc (2 tensors): this model has no such part" in text
