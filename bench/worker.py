"""A worker as it is, whose processes note what each step of a batch takes: `bench.ledger` starts it."""

import os
from pathlib import Path

from bench.steps import STEPS, Steps
from results import ledger
from worker import tasks

steps = Steps(Path(os.environ[STEPS]))
for name in ("claim", "extend", "find_twins"):
    setattr(ledger, name, steps.timed(name, getattr(ledger, name)))
ledger.finish = steps.timed("finish", ledger.finish, lambda db, held, *ends, **named: len(held.images))
tasks.classify = steps.timed("classify", tasks.classify)  # type: ignore[attr-defined]

app = tasks.app
app.conf.include = ("bench.worker",)  # So that each of its processes imports this, too.
