"""What the processes of one worker share, and what its starter knows of it. No settings, hence the underscore."""

import os
import socket
import uuid

#: Exit code of a worker whose processes die before they do anything.
KEEPS_DYING_EXIT_CODE = 70

_WORKER_ID = "_TAGMILL_WORKER_ID"
_STARTER = "_TAGMILL_WORKER_PARENT"


def worker_id() -> str:
    """What the batches of all processes of this worker name as their owner; the processes inherit it."""
    if _WORKER_ID not in os.environ:
        os.environ[_WORKER_ID] = f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
    return os.environ[_WORKER_ID]


def worker_environment(identity: str) -> dict[str, str]:
    """What a worker is started with that must end when this process does."""
    return {_WORKER_ID: identity, _STARTER: str(os.getpid())}


def starter() -> int:
    """The process that this worker must end with; 0 where there is none."""
    return int(os.environ.get(_STARTER, "0"))
