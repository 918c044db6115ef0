"""Messages that somebody else could put into our queues, and nobody should act on."""

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.messages import CLASSIFY_BATCH, RUN_SLOT

_JSON, _PICKLE, _YAML, _TEXT = "application/json", "application/x-python-serialize", "application/x-yaml", "text/plain"


@dataclass(frozen=True, kw_only=True)
class StrangeMessage:
    """The task that it asks for, and its body."""

    task: str = CLASSIFY_BATCH
    content_type: str = _JSON
    body: bytes


class _Evil:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._folder),)


def strange_messages(trap: Path) -> Iterator[StrangeMessage]:
    """All kinds of them.

    Args:
        trap: a folder that is there only after somebody ran what a message holds.
    """
    yield StrangeMessage(content_type=_PICKLE, body=pickle.dumps(((), {"run_id": _Evil(trap)}, {})))
    yield StrangeMessage(
        content_type=_YAML, body=f"[[], {{run_id: !!python/object/apply:os.mkdir ['{trap}']}}, {{}}]".encode()
    )
    yield StrangeMessage(content_type=_TEXT, body=b"no message at all")
    for body in (
        "[[], {",
        '[[], {"run_id": "1", "batch_id": 1}, {}]',
        '[[], {"run_id": "1", "images": []}, {}]',
        *(f'[[], {{"run_id": 1, "batch_id": {number}}}, {{}}]' for number in (-1, 2**62)),
        "[[1, 2, 3], {}, {}]",
    ):
        yield StrangeMessage(body=body.encode())
    yield StrangeMessage(task="os.mkdir", body=f'[["{trap}"], {{}}, {{}}]'.encode())
    yield StrangeMessage(task=RUN_SLOT, body=b"[[], {}, {}]")
