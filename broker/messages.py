"""What travels through the broker: pointers, as JSON."""

from dataclasses import dataclass
from typing import Any

#: The tasks, by name, so that who sends never imports who works.
CLASSIFY_BATCH = "tagmill.classify_batch"
LOOK_AT_SCHEDULES = "tagmill.look_at_schedules"  # A tick, which says nothing more.
RUN_SLOT = "tagmill.run_slot"


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


@dataclass(frozen=True, kw_only=True)
class SlotMessage:
    """A pointer to one slot of a schedule; losing it or receiving it twice does no harm."""

    schedule: str
    due_at: int  #: with the schedule's name the row in results.slots

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "SlotMessage":
        """
        Raises:
            ValueError: the fields are not those of a message; somebody else writes to our queue.
        """
        schedule, due_at = fields.get("schedule"), fields.get("due_at")
        if not isinstance(schedule, str) or not isinstance(due_at, int):
            raise ValueError(f"a slot message has the name schedule and the number due_at; got {fields!r}")
        return cls(schedule=schedule, due_at=due_at)
