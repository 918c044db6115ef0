"""Fixtures that more than one folder of tests needs."""

from pathlib import Path

import pytest

from models.pretrained import ensure_pretrained
from models.registry import Registry


@pytest.fixture(scope="session")
def pretrained_registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry holding the default model, built once for all tests; treat it as read-only."""
    root: Path = tmp_path_factory.mktemp("models")
    registry = Registry(root)
    ensure_pretrained(registry, lambda step, done: None)
    return registry
