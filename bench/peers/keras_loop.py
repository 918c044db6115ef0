"""The plain loop: Keras reads the folder, predicts in batches, and the rows go into SQLite at the end."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import keras
import numpy as np


def main(folder: Path, model_file: Path, database: Path) -> None:
    """Classify the folder."""
    labels = (model_file.parent / "labels.txt").read_text().splitlines()
    images = keras.utils.image_dataset_from_directory(
        folder, labels=None, shuffle=False, batch_size=64, image_size=(224, 224)
    )
    trained = keras.saving.load_model(model_file, safe_mode=True)
    pixels = keras.Input((224, 224, 3))
    normalised = keras.layers.Rescaling(1 / 128, offset=-127 / 128)(pixels)
    model = keras.Model(pixels, keras.layers.Softmax()(trained(normalised)))
    confidences = model.predict(images, verbose=0)  # (B, K)
    best = confidences.argmax(axis=1)
    rows = zip(images.file_paths, best, confidences[np.arange(len(best)), best], strict=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE predictions (path TEXT PRIMARY KEY, label TEXT, confidence REAL)")
        connection.executemany(
            "INSERT INTO predictions VALUES (?, ?, ?)", [(path, labels[one], float(share)) for path, one, share in rows]
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
