"""Folders that tagmill makes for itself."""

from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make a folder unless it is there, and those above it that are missing, for our own user alone.

    A catalogue, its prices and its answers are nobody else's business on a machine of several users. What is there
    already keeps its permissions: whoever made it may have wanted to share it.

    Raises:
        OSError: it cannot be made, or is no folder.
    """
    if not folder.is_dir():
        if folder.parent != folder:
            make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
