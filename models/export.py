"""A copy of a model version in a folder of its own."""

import os
import shutil
import tempfile
from pathlib import Path

from base.errors import SetupError
from models.registry import ModelVersion, read_version
from models.storage import FACTS_FILE, differs


def export_version(version: ModelVersion, folder: Path) -> int:
    """Write every file of a version, each checked, into a new folder, or one that is empty: all of them or none.

    Put at NAME/VERSION below another registry's folder, it is that version there.

    Returns:
        How many files there are.

    Raises:
        SetupError: the folder holds something, or cannot be written.
        ModelError: a file is missing or differs from what was published.
        TransientError: the registry's storage falters.
    """
    place = Path(os.path.realpath(folder))
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise SetupError(f"{str(folder)!r} is there and not an empty folder. Name a new folder.")
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".export-", dir=place.parent))
        try:
            facts = version.storage.read(version.name, version.version, FACTS_FILE)
            if read_version(version.storage, version.name, version.version, facts) != version:
                raise differs(version.locate(FACTS_FILE))
            (unfinished / FACTS_FILE).write_bytes(facts)
            for file in version.files:
                (unfinished / file).write_bytes(version.read(file))
            unfinished.chmod(0o755)  # mkdtemp lets only its own user in.
            unfinished.rename(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise SetupError(
            f"cannot write {version} into {str(folder)!r}: {error.strerror}. Mend that, or name another folder."
        ) from error
    return len(version.files) + 1
