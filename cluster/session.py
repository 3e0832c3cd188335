"""A connection to Ray: to one of our own on this machine, or to a running cluster."""

import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from data.errors import InputError

LOCAL = "local"
"""In place of an address: a Ray of our own on this machine, started and stopped."""

SECONDS_TO_CONNECT = 10.0

RAY_ENVIRONMENT = {
    # Rank 0 prints for itself: Ray's patch would show every line twice, and its deduplication would hide lines.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # What Ray will do by default; until this is set it warns about the change.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def set_environment(address: str) -> None:
    """Set the variables that Ray reads when it is imported."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address == LOCAL and "RAY_AUTH_TOKEN" not in os.environ:
        # A token of this command's own, in no file. Ray's ports are open to the network: without a token anyone could run code
        # through them, and left to itself Ray would write one under HOME, which later clusters would take up unasked.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if address == LOCAL:
        # It watches for nodes that a cloud takes back, and prints a warning about itself.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


@contextmanager
def session(address: str, *, num_cpus: int, where: str, remedy: str, log_to_driver: bool = True) -> Iterator[None]:
    """Ray at `address`: LOCAL, which offers `num_cpus`, auto for the one that this process runs in, or HOST:PORT.

    Raises InputError, which names the key `where` and the `remedy`, where no cluster runs there.
    """
    set_environment(address)
    import ray  # late: it reads its variables when it is imported

    if address == LOCAL:
        # address="local": a bare init would join whatever cluster it finds on this machine.
        ray.init(address=LOCAL, num_cpus=num_cpus, dashboard_host="127.0.0.1", _node_ip_address="127.0.0.1", log_to_driver=log_to_driver)
    else:
        try:
            _check_that_something_listens(address)
            ray.init(address=address, log_to_driver=log_to_driver)
        except (ConnectionError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{where}: no running Ray cluster found ({reason}); {remedy}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_that_something_listens(address: str) -> None:
    """Raise ConnectionError where nothing does: Ray would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+)\]?:(\d+)", address)
    if found:
        try:
            socket.create_connection((found[1], int(found[2])), timeout=SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"nothing listens at {address}: {error}") from None
