"""Logs: the event is a constant, the facts are fields; always on stderr, because stdout is for results."""

import logging
import sys

import structlog


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
