"""Ray Data: `read_images` → `map_batches` with an actor that holds the model → `write_sql`."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import ray


class Classifier:
    """Holds the Keras model; Ray makes one for each actor."""

    def __init__(self, model_file: Path) -> None:
        import keras

        self._labels = np.array((model_file.parent / "labels.txt").read_text().splitlines())
        trained = keras.saving.load_model(model_file, safe_mode=True)
        pixels = keras.Input((224, 224, 3))
        normalised = keras.layers.Rescaling(1 / 128, offset=-127 / 128)(pixels)
        self._model = keras.Model(pixels, keras.layers.Softmax()(trained(normalised)))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One batch of uint8 (B, 224, 224, 3)."""
        confidences = self._model.predict_on_batch(batch["image"])  # (B, K)
        best = confidences.argmax(axis=1)
        return {"path": batch["path"], "label": self._labels[best], "confidence": confidences.max(axis=1)}


def main(folder: Path, model_file: Path, database: Path) -> None:
    """Classify the folder."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE predictions (path TEXT PRIMARY KEY, label TEXT, confidence REAL)")
    ray.init(include_dashboard=False, logging_level="warning")
    images = ray.data.read_images(str(folder), size=(224, 224), mode="RGB", include_paths=True)
    answers = images.map_batches(
        Classifier,
        fn_constructor_args=(model_file,),
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,  # The others read.
    )
    answers.write_sql("INSERT INTO predictions VALUES (?, ?, ?)", lambda: sqlite3.connect(database, timeout=60))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
