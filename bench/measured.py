"""The measured process: lists a source as `tagmill run` does, with the same code, and tells what that took.

    python -m bench.measured SOURCE

Settings come from the environment, as for every command; no worker takes what is sent.
"""

import json
import logging
import re
import sys
import time
from pathlib import Path

from base.logs import configure_logs
from base.settings import load_settings
from broker.app import make_app
from cli.output import progress
from cli.work import Work
from producer.list_source import source_listing
from producer.sources import check_not_empty, open_source
from producer.start_run import start_run
from results.runs import RunRequest, close_runs
from results.schema import open_database


def main(address: str) -> None:
    """List and print the figures as JSON."""
    settings = load_settings()
    configure_logs(json_lines=False, level=logging.WARNING)
    began = time.monotonic()
    source = open_source(address, access=settings.bucket_access)
    check_not_empty(source)
    db = open_database(settings, create=True)
    request = RunRequest(source=source.uri, model="bench", model_version=1, content_hash="b" * 64)
    opened = start_run(db, request, on_wait=print)
    listing = source_listing(db, source, model_version_id=opened.model_version_id, everything=False)
    assert settings.broker_url is not None
    app = make_app(settings.broker_url.get_secret_value())
    with Work(settings, db, opened, app=app, worker=None) as work, progress(quiet=True) as reporter:
        work.list(listing, reporter)
    seconds = time.monotonic() - began
    close_runs(db)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": time.process_time(),
                "peak_bytes": _peak_bytes(),
                "run_id": opened.run_id,
            }
        )
    )


def _peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
