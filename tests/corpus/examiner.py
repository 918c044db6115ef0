"""The process that looks at the files of a corpus, one by one, as a worker does and within a worker's limits.

It reads URIs from stdin, one on each line, and answers each with a line of JSON on stdout.
"""

import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

from base.settings import Settings
from models.classifier import Classifier
from models.decoding import DecodingLimits
from models.engines.fake import FakeEngine
from results.ledger import ClaimedImage
from tests.fake_model import fake_version
from worker.classify import classify
from worker.heartbeat import Heartbeat
from worker.memory import limit_memory


def main() -> None:
    """Answer until stdin ends."""
    settings = Settings()
    limits = DecodingLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    classifier = Classifier(fake_version(), limits=limits, engine=FakeEngine())
    answers = os.fdopen(os.dup(1), "w")
    limit_memory(settings.memory_bytes)
    heartbeat = Heartbeat(lambda: None, lease_seconds=settings.lease_seconds, image_seconds=settings.image_seconds)
    for line in sys.stdin:
        with heartbeat.running():
            answers.write(json.dumps(_examine(classifier, line.rstrip("\n"), settings.max_image_bytes)) + "\n")
            answers.flush()


def _examine(classifier: Classifier, uri: str, max_bytes: int) -> dict[str, Any]:
    image = ClaimedImage(image_id=1, uri=uri, fingerprint="listed")
    _forget_peak()
    began = time.perf_counter()
    answers, failures = classify(
        classifier,
        [image],
        top_k=1,
        max_bytes=max_bytes,
        find_twins=lambda content_hashes: {},
        on_progress=lambda: None,
    )
    ends = [("classified", answer.labels[0][0]) for answer in answers]
    ends += [(str(failure.reason), failure.message) for failure in failures]
    ((end, told),) = ends
    return {"end": end, "told": told, "seconds": time.perf_counter() - began, "peak_bytes": _peak_bytes()}


def _forget_peak() -> None:
    """Linux counts the peak of a process from here on."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
