"""Whether the model versions that are asked for are in the registry, and are what was published."""

from collections.abc import Iterator
from pathlib import Path

from base.errors import ModelError, TransientError
from base.findings import Finding, fault, fault_of, ok, warning
from models.pretrained import DEFAULT_MODEL, check_packages
from models.registry import ModelVersion, Registry, load_engine


def check_default_model(root: Path, *, is_named: bool) -> Iterator[Finding]:
    """Look at the version that `tagmill run` takes unless told otherwise.

    Args:
        root: the registry.
        is_named: somebody chose that folder, so that it should be there.

    Raises:
        ModelError: a description in the registry is damaged, or it cannot be read.
        TransientError: its storage falters.
    """
    registry = Registry(root)
    if is_named and not root.is_dir():
        yield fault("model", f"there is no folder {root}", "Make or mount it, or correct TAGMILL_MODELS_URL.")
    elif found := registry.versions(DEFAULT_MODEL):
        yield _check_files("default", found[-1])
    else:
        try:
            check_packages(registry)
        except ModelError as error:
            yield fault_of("model", error)
        else:
            yield warning(
                "model",
                f"{root} has no model {DEFAULT_MODEL!r} yet",
                "The first 'tagmill run' or 'tagmill predict' builds it, in about a minute.",
            )


def check_active_version(root: Path, name: str, version: int, content_hash: str) -> Finding:
    """Look at a version that the database knows by its contents."""
    try:
        found = Registry(root).find(f"{name}:{version}")
    except (ModelError, TransientError) as error:
        return fault_of("model", error)
    if found.content_hash != content_hash:
        return fault(
            "model",
            f"{found} in {root} has contents {found.content_hash[:12]}, the database has {content_hash[:12]}",
            "Set TAGMILL_MODELS_URL to the registry that the runs used.",
        )
    return _check_files("active", found)


def _check_files(role: str, version: ModelVersion) -> Finding:
    try:
        load_engine(version)
    except (ModelError, TransientError) as error:
        return fault_of("model", error)
    return ok("model", f"{role} {version}: {len(version.files)} files as published, {version.engine_file} loads")
