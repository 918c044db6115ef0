"""Keras models as files: read without running what a file may carry, written so that equal models are equal bytes."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ModelError

if TYPE_CHECKING:
    import keras

_METADATA, _CONFIG = "metadata.json", "config.json"
# What a zip file can say at the earliest.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def load_keras(path: Path) -> keras.Model:
    """Load a model from a .keras file, with layers of Keras's own only.

    Raises:
        ModelError: it is no such file, holds code (a Lambda layer) or a class that Keras does not know.
    """
    import keras

    check_keras_file(path)
    try:
        found = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} cannot be loaded safely: {type(error).__name__}: {told}. {_NEXT_STEP}") from error
    if not isinstance(found, keras.Model) or not found.built or not found.inputs:
        raise ModelError(f"{path} holds a {type(found).__name__} whose inputs are not known. {_NEXT_STEP}")
    return found


def check_keras_file(path: Path) -> None:
    """Say in a line what Keras would say in many: what the file asks for that is not Keras's own.

    Keras's safe mode is what keeps code out; this is for its reader.

    Raises:
        ModelError: there is no such file, it is none of Keras's, or it names a Lambda layer or a class of others.
    """
    if path.suffix != ".keras":
        raise ModelError(f"{str(path)!r} is no .keras file. {_NEXT_STEP}")
    try:
        with zipfile.ZipFile(path) as content:
            config = json.loads(content.read(_CONFIG))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}. Name a .keras file.") from error
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not what Keras saves: {error}. {_NEXT_STEP}") from error
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            name, module = part.get("class_name"), part.get("module")
            if name in ("Lambda", "__lambda__"):
                raise ModelError(f"{path} holds a Lambda layer, which is code. {_NEXT_STEP}")
            is_known = module is None or module == "builtins" or str(module).partition(".")[0] == "keras"
            if name is not None and (not is_known or (module is None and part.get("registered_name") is not None)):
                raise ModelError(f"{path} holds a {name!r}, which is no class of Keras's own. {_NEXT_STEP}")


_NEXT_STEP = "Save a model of Keras's own layers, without Lambda and without classes of yours, as a .keras file."


def keras_bytes(model: keras.Model) -> bytes:
    """A model as the content of a .keras file; equal models are equal bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return _repeatable(path)


def _repeatable(path: Path) -> bytes:
    """The content of a .keras file without what is of this process and this moment alone: times and addresses."""
    content = BytesIO()
    with zipfile.ZipFile(path) as written, zipfile.ZipFile(content, "w") as repeatable:
        for name in sorted(written.namelist()):
            entry = written.read(name)
            if name == _METADATA:
                facts = json.loads(entry)
                entry = json.dumps({key: facts[key] for key in sorted(facts) if key != "date_saved"}).encode()
            elif name == _CONFIG:
                config = json.loads(entry)
                _number_shared(config, {})
                entry = json.dumps(config).encode()
            repeatable.writestr(zipfile.ZipInfo(name, _NO_TIME), entry)
    return content.getvalue()


def _number_shared(part: Any, numbers: dict[int, int]) -> None:
    """Objects that several layers share are known by their address in memory; by their order they are known as well."""
    if isinstance(part, dict):
        if "shared_object_id" in part:
            part["shared_object_id"] = numbers.setdefault(part["shared_object_id"], len(numbers) + 1)
        for each in part.values():
            _number_shared(each, numbers)
    elif isinstance(part, list):
        for each in part:
            _number_shared(each, numbers)


def end_at_logits(model: keras.Model) -> keras.Model:
    """The model without the softmax at its end, which is computed outside, after the temperature.

    Raises:
        ModelError: it ends with something else than a softmax or with plain numbers.
    """
    import keras
    from keras import layers

    output = model.outputs[0]
    last, before = _origin(output)
    # What comes after a softmax and changes nothing when the model predicts.
    while isinstance(last, layers.Dropout) or (isinstance(last, layers.Activation) and _ends_with(last, "linear")):
        output = before
        last, before = _origin(output)
    if isinstance(last, keras.Model):
        raise ModelError(
            f"the model ends with a model inside it, {last.name!r}, whose end cannot be told. "
            "Build it as one model that ends with a Dense layer."
        )
    if type(last).__name__ == "Softmax" or (isinstance(last, layers.Activation) and _ends_with(last, "softmax")):
        output = before
    elif _ends_with(last, "softmax"):
        plain = type(last).from_config({**last.get_config(), "activation": "linear"})
        output = plain(before)
        plain.set_weights(last.get_weights())
    elif not _ends_with(last, "linear") or isinstance(last, layers.ReLU | layers.LeakyReLU | layers.ELU | layers.PReLU):
        activation = getattr(last, "activation", last)
        raise ModelError(
            f"the model's last layer, {last.name!r}, ends with {getattr(activation, '__name__', last.name)!r}. "
            "One label for each image needs a softmax there, or nothing."
        )
    return keras.Model(model.inputs, output, name=model.name)


def _origin(tensor: keras.KerasTensor) -> tuple[Any, keras.KerasTensor]:
    """The layer or operation that gives a tensor, and the first one that it is given itself."""
    history = tensor._keras_history  # Of Keras, which has no other name for it.
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, (node.input_tensors or [tensor])[0]


def _ends_with(layer: object, name: str) -> bool:
    """Whether a layer's activation is of that name; one that has none is linear."""
    import keras

    activation = getattr(layer, "activation", None)
    return activation is keras.activations.get(name) or (activation is None and name == "linear")


def weights_hash(model: keras.Model) -> str:
    """A sha256, in hex, over the weight arrays of a model: their order, shapes, types and bytes."""
    digest = hashlib.sha256()
    for variable in model.weights:
        array = variable.numpy()
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
