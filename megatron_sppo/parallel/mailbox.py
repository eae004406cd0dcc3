"""Values from any rank of a job to one reader, in order of arrival, through the launcher's store.

For what no collective can carry: who will be next is not known. A value may hold a few MiB.
"""

from __future__ import annotations

import time

import torch.distributed as dist

_POLL_SECONDS = 0.002  # a blocking read would keep NCCL's own threads from the store


class Mailbox:
    """Every writer and the reader make one of the same ``name``, which must be new to the job."""

    def __init__(self, store: dist.Store, name: str) -> None:
        self._store, self._name, self._taken = store, name, 0

    def put(self, value: bytes) -> None:
        """Numbered by the store: this is the order of arrival."""
        number = self._store.add(f"{self._name}/count", 1)
        self._store.set(f"{self._name}/{number}", value)  # type: ignore[arg-type]  # bytes are what it keeps

    def take(self) -> bytes:
        """The next value; waits for it. For one reader."""
        self._taken += 1
        key = f"{self._name}/{self._taken}"
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
        value = self._store.get(key)
        self._store.delete_key(key)
        return value
