"""Whether this machine has what it takes: versions, room on its disks, folders that may be written."""

import importlib.metadata
import os
import platform
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from base.errors import SetupError
from base.findings import Finding, fault, ok, warning
from base.settings import Settings
from results.session import database_url

# A run of a million images takes about half a gigabyte in SQLite.
_WARNING_BYTES = 2**30
_FAULT_BYTES = 100 * 2**20
_FAULT_INODES = 1000

_SQLITE = (3, 35, 0)  # The first with RETURNING.


def check_versions() -> Iterator[Finding]:
    """Hold what is installed against what tagmill's own package asks for."""
    package = importlib.metadata.metadata("tagmill")
    python = platform.python_version()
    yield ok("versions", f"tagmill {package['Version']}, Python {python}, SQLite {sqlite3.sqlite_version}")
    if not SpecifierSet(package["Requires-Python"]).contains(python):
        yield fault("versions", f"Python {python} is not {package['Requires-Python']}", "Install tagmill with another.")
    if sqlite3.sqlite_version_info < _SQLITE:
        yield fault("versions", f"SQLite {sqlite3.sqlite_version} is older than 3.35", "Use a Python with a newer one.")
    found: dict[str, str] = {}
    for line in package.get_all("Requires-Dist") or []:
        wanted = Requirement(line)
        is_extra = wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})
        try:
            found[wanted.name] = version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            if not is_extra:
                yield fault("versions", f"{wanted.name} is not installed", _reinstall(wanted))
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield fault("versions", f"{wanted.name} {version} is not {wanted.specifier}", _reinstall(wanted))
    yield ok("versions", ", ".join(f"{name} {version}" for name, version in found.items()))


def _reinstall(wanted: Requirement) -> str:
    return f"pip install '{wanted.name}{wanted.specifier}', or 'make install' in a checkout."


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Look at the folders that tagmill writes to, and at the room on their disks; nothing is written."""
    places = {"home": settings.home_path}
    try:
        url = database_url(settings)
        if url.get_backend_name() == "sqlite":
            places["database"] = Path(str(url.database)).parent
        # Of a bucket, its cache.
        places["registry"] = settings.models_workspace
    except SetupError:
        pass  # What is wrong with the address is told by the check of what it names.
    for name, folder in places.items():
        there = _nearest(folder)
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            yield _check_room(name, there)
        elif name == "registry" and folder.is_dir():
            yield ok("disk", f"registry: {folder} can only be read, which is enough unless a model is to be built")
        else:
            wrong = "cannot be written" if there.is_dir() else "is no folder"
            yield fault("disk", f"{name}: {there} {wrong}", f"Correct its permissions, or name another {name}.")


def _nearest(folder: Path) -> Path:
    """The folder itself or, before it is made, the lowest of those above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists() or path == path.parent)


def _check_room(name: str, folder: Path) -> Finding:
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    found = f"{name}: {free / 2**30:,.1f} GiB free at {folder}"
    if free < _FAULT_BYTES:
        return fault("disk", found, "Free some space, or name a folder on another disk.")
    if disk.f_files and disk.f_favail < _FAULT_INODES:  # Some file systems do not count them.
        return fault(
            "disk", f"{name}: {disk.f_favail:,} more files fit in {folder}", "Remove some, or name another disk."
        )
    if free < _WARNING_BYTES:
        return warning("disk", found, "Free some space before the next large run.")
    return ok("disk", found)
