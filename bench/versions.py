"""The model versions that are measured: the pretrained one, the same with its float32 file, and the smallest there is.

    python -m bench.versions FOLDER

makes the smallest one in the registry of that folder. It is run so, as it needs TensorFlow.
"""

import os
import subprocess
import sys
from pathlib import Path

from models.child import ENVIRONMENT
from models.preprocessing import Preprocessing
from models.pretrained import DEFAULT_MODEL, ensure_pretrained
from models.registry import ModelVersion, Registry

FLOAT32 = f"{DEFAULT_MODEL}_float32"
#: Its logits are the mean colour of 8x8 pixels, so that nearly all of the time goes into what is around the model.
MEAN_COLOUR = "mean_colour"
_FILE = "float32.tflite"


def pretrained_versions(registry: Registry) -> tuple[ModelVersion, ModelVersion]:
    """int8 and float32 of the pretrained network; built where they are not there, which takes a minute."""
    pretrained = ensure_pretrained(registry, lambda step, done: print(f"bench: {step}", file=sys.stderr))
    if not registry.has(FLOAT32):
        registry.publish(
            FLOAT32,
            engines={_FILE: pretrained.read(_FILE)},
            engine_file=_FILE,
            labels=pretrained.labels,
            preprocessing=pretrained.preprocessing,
            temperature=pretrained.temperature,
            description="The float32 file of the pretrained model, for comparison.",
        )
    return pretrained, registry.find(FLOAT32)


def mean_colour_version(registry: Registry) -> ModelVersion:
    """The smallest model; made where it is not there, which takes some seconds."""
    if not registry.has(MEAN_COLOUR):
        root = registry.root
        assert root is not None
        checkout = Path(__file__).absolute().parents[1]
        command = [sys.executable, "-m", "bench.versions", str(root.absolute())]
        subprocess.run(command, check=True, cwd=checkout, env=os.environ | ENVIRONMENT, stderr=subprocess.DEVNULL)
    return registry.find(MEAN_COLOUR)


def _make_mean_colour(registry: Registry) -> None:
    import keras

    from models.conversion import to_float32

    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
    registry.publish(
        MEAN_COLOUR,
        engines={_FILE: to_float32(model)},
        engine_file=_FILE,
        labels=["red", "green", "blue"],
        preprocessing=Preprocessing(size=8),
        description="The mean colour, to measure what is around a model.",
    )


if __name__ == "__main__":
    _make_mean_colour(Registry(Path(sys.argv[1])))
