"""A real S3 server on the loopback (moto's) that fails when told to.

    with faulty_s3() as server:
        server.put("set/train-00000.tar", content)
        server.faults.status("train-00000.tar", 503, times=2)
        store = open_store(server.url("set"))

fsspec's configuration and the environment point to the server as long as it runs, for child processes too.
"""

import http.client
import json
import logging
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def needs_s3() -> pytest.MarkDecorator:
    """Skips where the packages that this file needs are not installed."""
    missing = []
    for name in ("moto", "s3fs", "flask"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@dataclass
class _Fault:
    times: int
    status: int | None = None
    at: int | None = None
    stalls: bool = False


class Faults:
    """What the server does wrong. A key ends in the text that is given; a fault is for so many GETs of it, then it is over."""

    def __init__(self) -> None:
        self._faults: dict[str, list[_Fault]] = {}
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.gets: Counter[str] = Counter()
        """How often each key was asked for with GET."""

    def status(self, key: str, status: int, *, times: int = 1) -> None:
        """Answer with an HTTP status such as 503 or 403."""
        self._add(key, _Fault(times, status=status))

    def truncate(self, key: str, at: int, *, times: int = 1) -> None:
        """Announce the whole length, send `at` bytes and close the connection."""
        self._add(key, _Fault(times, at=at))

    def stall(self, key: str, after: int | None = None, *, times: int = 1) -> None:
        """Send `after` bytes and nothing more; None: accept the request and never answer. Until `clear`."""
        self._add(key, _Fault(times, at=after, stalls=True))

    def clear(self) -> None:
        """End all faults, those that are under way too."""
        with self._lock:
            self._faults.clear()
            self._released.set()
            self._released = threading.Event()

    def _add(self, key: str, fault: _Fault) -> None:
        with self._lock:
            self._faults.setdefault(key, []).append(fault)

    def _take(self, path: str) -> tuple[_Fault | None, threading.Event]:
        with self._lock:
            self.gets[path.split("/", 2)[-1]] += 1
            for key, faults in self._faults.items():
                while path.endswith(key) and faults:
                    if faults[0].times > 0:
                        faults[0].times -= 1
                        return faults[0], self._released
                    faults.pop(0)
            return None, self._released

    def wrap(self, application: WSGI) -> WSGI:
        """`application` with these faults."""

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            # /bucket/key: what is asked of a bucket itself never fails.
            is_object = environ["PATH_INFO"].strip("/").count("/") > 0
            if environ["REQUEST_METHOD"] != "GET" or not is_object:
                return application(environ, start_response)
            fault, released = self._take(environ["PATH_INFO"])
            if fault is None:
                return application(environ, start_response)
            if fault.status is not None:
                start_response(f"{fault.status} Fault", [("Content-Type", "application/xml")])
                code = {403: "AccessDenied", 404: "NoSuchKey", 503: "ServiceUnavailable"}.get(fault.status, "InternalError")
                return [f"<Error><Code>{code}</Code><Message>told to fail</Message></Error>".encode()]
            if fault.at is None:
                released.wait()
                raise ConnectionAbortedError
            return _part(application(environ, start_response), fault.at, released if fault.stalls else None)

        return answer


def _part(body: Iterable[bytes], length: int, released: threading.Event | None) -> Iterator[bytes]:
    yield b"".join(body)[:length]
    if released is not None:
        released.wait()


class FaultyServer:
    """A running server with one bucket."""

    def __init__(self, port: int, faults: Faults, stop: Callable[[], None]) -> None:
        self.port, self.faults, self.stop, self.bucket = port, faults, stop, f"bucket-{uuid.uuid4().hex[:8]}"
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self._ask("PUT", "")

    def url(self, folder: str = "") -> str:
        return f"s3://{self.bucket}/{folder}".rstrip("/")

    def put(self, key: str, content: bytes) -> None:
        self._ask("PUT", f"/{key}", content)

    def delete(self, key: str) -> None:
        self._ask("DELETE", f"/{key}")

    def _ask(self, method: str, path: str, body: bytes = b"") -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            authorization = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
            connection.request(method, f"/{self.bucket}{path}", body=body, headers={"Authorization": authorization})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300, content
        finally:
            connection.close()


@contextmanager
def faulty_s3() -> Iterator[FaultyServer]:
    """A server on a free port of the loopback; see the top of this file."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: Any) -> None:
            pass

        def log_error(self, *_: Any) -> None:
            pass

    faults = Faults()
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    application = faults.wrap(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()

    def stop() -> None:
        faults.clear()
        server.shutdown()
        server.server_close()
        thread.join()

    try:
        with _pointed_to(server.server_port):
            yield FaultyServer(server.server_port, faults, stop)
    finally:
        stop()


@contextmanager
def _pointed_to(port: int) -> Iterator[None]:
    import fsspec.config
    import s3fs

    options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "test", "secret": "test"}
    environment = {"FSSPEC_S3": json.dumps(options), "AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setitem(fsspec.config.conf, "s3", options)
        try:
            yield
        finally:
            for filesystem in list(s3fs.S3FileSystem._cache.values()):
                if filesystem._s3 is not None:
                    filesystem.close_session(filesystem.loop, filesystem._s3)
            s3fs.S3FileSystem.clear_instance_cache()
