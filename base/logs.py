"""Logs: the event is a constant, the facts are fields; always on stderr, because stdout is for results."""

import importlib
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import structlog
else:
    # Taken from here and not from structlog, which would load rich first: for tracebacks in colour, which takes a
    # twentieth of a second of every process; ours are plain. Whoever wants rich loads it afterwards, or has done so
    # before.
    _rich = sys.modules.get("rich")
    sys.modules["rich"] = None
    try:
        structlog = importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]
        if _rich is not None:
            sys.modules["rich"] = _rich

get_logger = structlog.get_logger
bound_contextvars = structlog.contextvars.bound_contextvars


def configure_logs(*, json_lines: bool, level: int = logging.INFO) -> None:
    """Send our events to stderr: columns for people, or one JSON object per line for machines."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # In one write: processes that share a file would else break each other's lines where Python does not buffer.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
