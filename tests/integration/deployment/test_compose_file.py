"""What docker-compose.yml promises, read from the file."""

import importlib.metadata
import subprocess
import sys
from typing import Any

import pytest

from producer import stopper
from tests.compose import COMPOSE_FILE, read_services, seconds
from worker.reconciler import SHUTDOWN_SECONDS

VARIABLES = {"POSTGRES_PASSWORD": "one", "REDIS_PASSWORD": "two", "PHOTOS": "/home/somebody/photos"}
SERVICES = read_services(VARIABLES)
OURS = ("migrate", "models", "worker", "producer", "beat", "tagmill")
LISTING_OR_READING = ("worker", "producer", "tagmill")


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each of the services."""
    return SERVICES[request.param]


def conditions(name: str) -> dict[str, str]:
    return {other: facts["condition"] for other, facts in SERVICES[name]["depends_on"].items()}


def test_file_keeps_the_published_compose_schema() -> None:
    checker = [sys.executable, "-W", "error", "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    done = subprocess.run([*checker, COMPOSE_FILE], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_without_default_is_asked_for() -> None:
    for name in VARIABLES:
        with pytest.raises(KeyError, match=name):
            read_services({other: value for other, value in VARIABLES.items() if other != name})
        assert f"${{{name}:?put {name}=" in COMPOSE_FILE.read_text()


def test_container_can_change_nothing_but_its_volumes(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_container_does_not_run_as_root(service: dict[str, Any]) -> None:
    assert service["user"].partition(":")[0] in ("10001", "postgres", "redis")


def test_no_port_is_published(service: dict[str, Any]) -> None:
    assert "ports" not in service and "network_mode" not in service


def test_image_has_an_exact_version(service: dict[str, Any]) -> None:
    assert service["image"].partition(":")[2].count(".") >= 1
    assert "latest" not in service["image"]


@pytest.mark.parametrize("name", OURS)
def test_our_image_is_named_for_our_version(name: str) -> None:
    service = SERVICES[name]

    # An image of that name is used without being built again, so a new version needs a new name.
    assert service["image"] == f"tagmill-{service['build']['target']}:{importlib.metadata.version('tagmill')}"
    assert service["build"]["target"] == ("models" if name == "models" else "worker")


@pytest.mark.parametrize("name", LISTING_OR_READING)
def test_work_begins_when_everything_is_ready(name: str) -> None:
    healthy, completed = "service_healthy", "service_completed_successfully"

    assert conditions(name) == {"redis": healthy, "postgres": healthy, "migrate": completed, "models": completed}
    assert conditions("migrate") == {"postgres": healthy}
    assert conditions("beat") == {"redis": healthy}


def test_servers_tell_when_they_are_healthy() -> None:
    assert [name for name, service in SERVICES.items() if "healthcheck" in service] == ["redis", "postgres"]


def test_worker_has_time_to_end_its_batches() -> None:
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= SHUTDOWN_SECONDS + 5


def test_producer_has_time_to_leave_its_listings() -> None:
    assert seconds(SERVICES["producer"]["stop_grace_period"]) >= stopper.SHUTDOWN_SECONDS + 5


def test_up_starts_everything_but_single_commands() -> None:
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "tagmill": ["run"]
    }


def test_beat_knows_the_broker_and_nothing_else() -> None:
    assert SERVICES["beat"]["environment"].keys() == {"TAGMILL_BROKER_URL", "TAGMILL_JSON_LOGS"}
    assert "volumes" not in SERVICES["beat"]


def test_settings_file_is_an_empty_one_unless_it_is_named() -> None:
    for variables, source in ((VARIABLES, "/dev/null"), (VARIABLES | {"CONFIG": "./tagmill.toml"}, "./tagmill.toml")):
        services = read_services(variables)
        for name in LISTING_OR_READING:
            (mount,) = [mount for mount in services[name]["volumes"] if mount["source"] == source]
            assert mount["target"] == services[name]["environment"]["TAGMILL_CONFIG"]
            assert mount["bind"]["create_host_path"] is False  # An absent file must not become a folder.


def test_images_and_models_are_mounted_read_only() -> None:
    for name in LISTING_OR_READING:
        mounts = {mount["target"]: mount for mount in SERVICES[name]["volumes"]}
        assert mounts.keys() == {"/models", "/photos", "/etc/tagmill.toml"} and all(
            mount["read_only"] for mount in mounts.values()
        )
        assert mounts["/photos"]["source"] == VARIABLES["PHOTOS"]
        assert mounts["/photos"]["bind"]["create_host_path"] is False


def test_models_are_built_where_workers_read_them() -> None:
    assert SERVICES["models"]["command"] == ["models", "build"]
    for name in ("models", *LISTING_OR_READING):
        assert SERVICES[name]["environment"]["TAGMILL_MODELS_URL"] == "/models"
    assert SERVICES["models"]["volumes"] == ["models:/models"]
    assert SERVICES["worker"]["volumes"][0]["source"] == "models"
