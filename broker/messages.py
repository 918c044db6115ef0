"""What travels through the broker: pointers, as JSON."""

from dataclasses import dataclass
from typing import Any

#: The one task, by name, so that a producer never imports a worker.
CLASSIFY_BATCH = "tagmill.classify_batch"


@dataclass(frozen=True, kw_only=True)
class BatchMessage:
    """A pointer to one batch; losing it or receiving it twice does no harm."""

    run_id: int
    batch_id: int  #: row in results.batches; its images and model version are read from there

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "BatchMessage":
        """
        Raises:
            ValueError: the fields are not those of a message; somebody else writes to our queue.
        """
        run_id, batch_id = fields.get("run_id"), fields.get("batch_id")
        if not isinstance(run_id, int) or not isinstance(batch_id, int):
            raise ValueError(f"a batch message has the numbers run_id and batch_id; got {fields!r}")
        return cls(run_id=run_id, batch_id=batch_id)
