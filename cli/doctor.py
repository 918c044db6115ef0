"""`tagmill doctor`: look at everything that tagmill needs, and say how to mend what is wrong."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import typer
from pydantic import SecretStr

from base.errors import AppError, SetupError
from base.findings import Finding, FindingStatus, fault, fault_of, ok
from base.settings import Settings, settings_with_origins, without_secrets
from cli.options import Json
from cli.output import RowFormat, print_json, print_rows, printable, progress

# For all checks together. A server that swallows what is sent to it would be waited for far longer.
_PATIENCE_SECONDS = 8.0

Check = Callable[[], Iterable[Finding]]


@dataclass(frozen=True)
class ShownSetting:
    """A setting as it may be shown to anybody."""

    name: str
    value: str  #: with what is secret in it hidden
    origin: str


def doctor(json: Json = False) -> None:
    """Check settings, versions, broker, database, model, disk and clock, and say how to mend what is wrong.

    It changes nothing. Exits with 1 when there is a fault; warnings alone leave it at 0.

    Example: tagmill doctor
    """
    shown, findings = examine(quiet=json)
    if json:
        print_json({"settings": [asdict(one) for one in shown], "findings": [asdict(one) for one in findings]})
    else:
        _print(shown, findings)
    raise typer.Exit(1 if any(one.status is FindingStatus.FAULT for one in findings) else 0)


def examine(*, quiet: bool) -> tuple[list[ShownSetting], list[Finding]]:
    """Every setting, and what there is to say of everything that they name."""
    from worker.check import check_versions

    try:
        settings, origins = settings_with_origins()
    except (SetupError, OSError) as error:
        wrong = error if isinstance(error, SetupError) else SetupError(f"the current folder cannot be read: {error}")
        return [], [fault_of("settings", wrong), *ask_all({"versions": check_versions}, quiet=quiet)]
    shown = [ShownSetting(name, show(getattr(settings, name)), origin) for name, origin in origins.items()]
    by_hand = sum(origin != "default" for origin in origins.values())
    found = ok("settings", f"{by_hand} of {len(origins)} are not left at their defaults")
    return shown, [found, *ask_all(_checks(settings), quiet=quiet)]


def _checks(settings: Settings) -> dict[str, Check]:
    from broker.check import examine_broker, examine_embedded
    from models.check import check_active_version, check_default_model
    from models.registry import open_registry
    from producer.check import check_schedules
    from results.check import active_versions, check_database, check_reader
    from worker.check import check_disk, check_versions
    from worker.local import cores

    broker_url = settings.broker_url

    def check_active_versions() -> Iterator[Finding]:
        for one in active_versions(settings):
            yield check_active_version(open_registry(settings), one.name, one.version, one.content_hash)

    return {
        "versions": check_versions,
        "broker": lambda: (
            examine_embedded(settings.home_path)
            if broker_url is None
            else examine_broker(broker_url.get_secret_value())
        ),
        "database": lambda: check_database(settings, processes=cores()),
        "reader": lambda: check_reader(settings),
        "model": lambda: check_default_model(open_registry(settings), is_named=settings.models_url is not None),
        "active models": check_active_versions,
        "disk": lambda: check_disk(settings),
        "schedules": lambda: check_schedules(settings),
    }


def ask_all(checks: Mapping[str, Check], *, quiet: bool, seconds: float = _PATIENCE_SECONDS) -> list[Finding]:
    """What all checks find, each in a thread of its own, so that none holds up or ends another.

    Args:
        checks: name → what gives its findings, one after the other.
        quiet: show no progress.
        seconds: a check that takes longer is a fault, whatever it found by then.
    """
    found: dict[str, list[Finding]] = {name: [] for name in checks}
    # Daemons: whatever a stuck one waits for, the command ends.
    threads = {
        name: threading.Thread(target=_ask, args=(name, check, found[name].append), daemon=True)
        for name, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + seconds
    with progress(quiet=quiet) as reporter:
        while (waiting := _alive(threads)) and time.monotonic() < deadline:
            reporter.update(f"waiting for {', '.join(waiting)}", None)
            threads[waiting[0]].join(0.1)
    for name in waiting:
        found[name].append(fault(name, f"no answer within {seconds:g} s", "See whether its server or disk is there."))
    return [finding for findings in found.values() for finding in findings]


def _alive(threads: Mapping[str, threading.Thread]) -> list[str]:
    return [name for name, thread in threads.items() if thread.is_alive()]


def _ask(name: str, check: Check, give: Callable[[Finding], None]) -> None:
    try:
        for finding in check():
            give(finding)
    except AppError as error:
        give(fault_of(name, error))
    except Exception as error:  # noqa: BLE001 (whatever ends one check, the others are worth having)
        give(
            fault(name, f"{type(error).__name__}: {error}", "Look at what it names; or report it as a mistake of ours.")
        )


def show(value: object) -> str:
    """A setting for anybody's eyes."""
    if value is None:
        return ""
    if isinstance(value, tuple):  # Schedules.
        return ", ".join(one.name for one in value)
    if not isinstance(value, SecretStr):
        return without_secrets(str(value).lower() if isinstance(value, bool) else str(value))
    text = value.get_secret_value()
    # What is no address may be a password in the wrong place.
    return without_secrets(text) if re.match(r"[a-z0-9+]+://", text) else "***"


def _print(shown: list[ShownSetting], findings: list[Finding]) -> None:
    if shown:
        rows = [(one.name, one.value, one.origin) for one in shown]
        print_rows(("setting", "value", "from"), rows, RowFormat.TABLE)
        print()
    width = max(len(one.check) for one in findings)
    for one in findings:
        print(f"{one.status:<7}  {one.check:<{width}}  {printable(one.found)}")
        if one.mend:
            print(f"{'':<7}  {'':<{width}}  -> {printable(one.mend)}")
    faults, warnings = (
        sum(one.status is status for one in findings) for status in (FindingStatus.FAULT, FindingStatus.WARNING)
    )
    print(f"\n{_count(faults, 'fault')}, {_count(warnings, 'warning')}")


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
