"""Ray, started on this machine or joined; what `map --ray` and requests by Ray Data share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rsiccllm.errors import InputError


@contextmanager
def joined(address: str, setup: str | None = None, **here: Any) -> Iterator[None]:
    """Within this, `ray` can be used.

    address: "local" starts Ray on this machine, "auto" or an address joins a cluster. setup: "module.function" that
    each worker calls before anything else. here: for `ray.init`, where it is started. A Ray that this process has
    already is used as it is, and left running. Raises InputError where Ray is not installed, and where it cannot be
    started or joined.
    """
    try:
        import ray
    except ImportError:
        raise InputError("ray is not installed; pip install 'rsiccllm[ray]'") from None
    if ray.is_initialized():
        yield
        return
    given: dict[str, Any] = {**here, "include_dashboard": False} if address == "local" else {"address": address}
    if setup:
        given["runtime_env"] = {"worker_process_setup_hook": setup}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers what runs here, unasked
    try:
        ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has no class of its own for this
        reason = " ".join(str(error).split())[:150]
        if address not in {"local", "auto"} and "RAY_AUTH_MODE" not in os.environ:
            reason += "; `ray start` asks for a token, which goes to an address only with RAY_AUTH_MODE=token set"
        raise InputError(f"--ray {address}: cannot be started or joined ({reason})") from None
    try:
        yield
    finally:
        ray.shutdown()
