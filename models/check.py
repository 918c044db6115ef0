"""Whether the model versions that are asked for are in the registry, and are what was published."""

from collections.abc import Iterator

from base.errors import ModelError, TransientError
from base.findings import Finding, fault, fault_of, ok, warning
from models.pretrained import DEFAULT_MODEL, check_can_build
from models.registry import ModelVersion, Registry, check_files, load_engine


def check_default_model(registry: Registry, *, is_named: bool) -> Iterator[Finding]:
    """Look at the version that `tagmill run` takes unless told otherwise.

    Args:
        registry: where it should be.
        is_named: somebody chose that registry, so that its folder should be there.

    Raises:
        ModelError: a description in the registry is damaged, or it cannot be read.
        TransientError: its storage falters.
    """
    root = registry.root
    if root is not None and is_named and not root.is_dir():
        yield fault("model", f"there is no folder {root}", "Make or mount it, or correct TAGMILL_MODELS_URL.")
    elif registry.has(DEFAULT_MODEL):
        yield _check_files("default", registry.find(DEFAULT_MODEL))
    else:
        try:
            check_can_build(registry)
        except ModelError as error:
            yield fault_of("model", error)
        else:
            yield warning(
                "model",
                f"{registry.address} has no model {DEFAULT_MODEL!r} yet",
                "The first 'tagmill run' or 'tagmill predict' builds it, in about a minute.",
            )


def check_active_version(registry: Registry, name: str, version: int, content_hash: str) -> Finding:
    """Look at a version that the database knows by its contents."""
    try:
        found = registry.find(f"{name}:{version}")
    except (ModelError, TransientError) as error:
        return fault_of("model", error)
    if found.content_hash != content_hash:
        theirs, ours = content_hash[:12], found.content_hash[:12]
        return fault(
            "model",
            f"{found} in {registry.address} has contents {ours}, the database has {theirs}",
            "Set TAGMILL_MODELS_URL to the registry that the runs used.",
        )
    return _check_files("active", found)


def _check_files(role: str, version: ModelVersion) -> Finding:
    files = f"{role} {version}: {len(version.files)} files as published"
    try:
        check_files(version)
        if version.engine_file.endswith(".keras"):  # TensorFlow takes longer to load than anybody waits for a check.
            return ok("model", f"{files}; {version.engine_file} was not loaded")
        load_engine(version)
    except (ModelError, TransientError) as error:
        return fault_of("model", error)
    return ok("model", f"{files}, {version.engine_file} loads")
