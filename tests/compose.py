"""docker-compose.yml as its services see it, without a container engine."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[1]
COMPOSE_FILE = PROJECT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")


def read_services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services by name, with variables filled in as Compose does from an .env file.

    Raises:
        KeyError: a variable without a default is not among them.
    """
    facts: dict[str, dict[str, dict[str, Any]]] = YAML(typ="safe").load(COMPOSE_FILE.read_text())
    services: dict[str, dict[str, Any]] = _fill_in(facts["services"], variables)
    return services


def image_entrypoint() -> list[str]:
    """What the Dockerfile puts before a service's command."""
    (words,) = set(re.findall(r"^ENTRYPOINT (.*)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE))
    entrypoint: list[str] = json.loads(words)
    return entrypoint


def seconds(duration: str) -> int:
    """A duration such as 30s or 1m."""
    return int(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


def _fill_in(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill_in(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_fill_in(each, variables) for each in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: variables.get(found[1]) or found[2] or variables[found[1]], value)
    return value
