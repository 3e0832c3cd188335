"""Requests to a remote filesystem that end: one that brings nothing for too long is given up.

fsspec's own calls wait as long as the server does. Here each runs beside the caller, who looks on.
"""

import asyncio
import concurrent.futures
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.callbacks import Callback  # type: ignore[import-untyped]

from data.cache import StoppedError, StoreError
from data.errors import InputError

LOOK_SECONDS = 0.25  # so soon a caller learns that it is to stop

LASTING_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, TypeError)
TRY_AGAIN_STATUS = (408, 429)


def open_filesystem(location: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path of that URL there. Makes no request."""
    try:
        filesystem, path = fsspec.core.url_to_fs(location, **_options(location.split("://", 1)[0]))
    except ImportError as error:
        raise InputError(f"{location}: {_one_line(error)}; install that package, or give a local folder") from None
    except ValueError as error:
        raise InputError(f"{location}: {_one_line(error)}; expected a local folder or a URL that fsspec knows, mend it") from None
    return filesystem, str(path).rstrip("/")


def _options(protocol: str) -> dict[str, Any]:
    """What we ask of s3fs, unless fsspec's own configuration says otherwise.

    Its client tries five times by itself, silently and with waits of seconds: our own retries then say nothing of the
    first errors. And several ranges of one file at once bring no byte until a range of 50 MB is there: a slow server
    would look like one that stalls. Several shards at once keep a link as busy.
    """
    if protocol not in ("s3", "s3a"):
        return {}
    configured = {**fsspec.config.conf.get("s3", {}), **fsspec.config.conf.get("s3a", {})}
    client = {"retries": {"total_max_attempts": 1}, **configured.get("config_kwargs", {})}
    return {"max_concurrency": configured.get("max_concurrency", 1), "config_kwargs": client}


class Watch:
    """Looks on while one request runs. `stop` ends the wait from outside."""

    def __init__(self, stall_seconds: float, stop: threading.Event | None = None) -> None:
        self.stall_seconds, self.stop = stall_seconds, stop
        self._last = time.monotonic()
        self._given_up = False

    def call(self, filesystem: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """The result of `filesystem.method(...)`. Raises what it raises, TimeoutError where nothing comes, StoppedError at `stop`."""
        future = _start(filesystem, method, *args, **kwargs)
        try:
            while not concurrent.futures.wait([future], timeout=min(LOOK_SECONDS, self.stall_seconds)).done:
                if self.stop is not None and self.stop.is_set():
                    raise StoppedError
                if time.monotonic() - self._last > self.stall_seconds:
                    raise TimeoutError(f"nothing came for {self.stall_seconds:g} s")
        except BaseException:
            # A coroutine ends at once; a thread cannot be ended, but writes no more than the block it waits for.
            self._given_up = True
            future.cancel()
            raise
        return future.result()

    def download(self, filesystem: Any, remote: str, local: Path, size: int) -> None:
        """Write the file `remote` to `local`, and not much more than `size` bytes of it."""

        def look(total: int | None, received: int, **_: Any) -> None:
            self._last = time.monotonic()
            if self._given_up:
                raise StoppedError
            if received and max(received, total or 0) > size:
                raise StoreError(f"{max(received, total or 0)} bytes found, expected {size}")

        self.call(filesystem, "get_file", remote, str(local), callback=Callback(hooks={"look": look}))


def _start(filesystem: Any, method: str, *args: Any, **kwargs: Any) -> "Future[Any]":
    if filesystem.async_impl:
        return asyncio.run_coroutine_threadsafe(getattr(filesystem, "_" + method)(*args, **kwargs), filesystem.loop)
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # so that cancel() leaves it alone

    def work() -> None:
        try:
            future.set_result(getattr(filesystem, method)(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name=f"store-{method}", daemon=True).start()
    return future


def is_lasting(error: BaseException) -> bool:
    """Whether the same request will fail again: the file is not there, or this user may not read it."""
    if isinstance(error, LASTING_ERRORS) or "Credentials" in type(error).__name__:
        return True
    status = _http_status(error)
    return status is not None and 400 <= status < 500 and status not in TRY_AGAIN_STATUS


def reason(error: BaseException) -> str:
    """One line that says what went wrong."""
    if isinstance(error, StoreError):
        return _one_line(error)
    status = _http_status(error)
    kind = type(error).__name__ if status is None else f"HTTP {status}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)
    return f"{kind}: {text}".rstrip(": ")


def _http_status(error: BaseException) -> int | None:
    """The status of an HTTP answer behind `error`, as the clients of S3 and of plain HTTP leave it there."""
    response = getattr(error.__cause__ or error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else getattr(error, "status", None)
    return found if isinstance(found, int) else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
