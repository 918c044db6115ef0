"""What a worker needs for every batch: importing this loads it, before there are settings for `worker.tasks`.

It is loaded once; the processes that are forked have it from their parent.
"""

# ruff: noqa: F401

# Celery loads these itself, but only when a worker is made.
import celery.app.amqp
import celery.apps.worker
import celery.concurrency.prefork
import celery.worker.components
import celery.worker.consumer
import kombu.transport.redis

# As SQLAlchemy does with a dialect.
import sqlalchemy.dialects.sqlite

import broker.connection
import broker.reconnect
import models.classifier
import models.engines.litert
import results.ledger
import results.runs
import results.schema
import worker.classify
import worker.forking
import worker.heartbeat
import worker.memory
import worker.reconciler
