"""Daft: paths of a folder → download → decode → resize → a batch function that holds the model → `write_sql`."""

import sys
from pathlib import Path

import daft
import numpy as np
from daft.functions import decode_image, download, resize, unnest


@daft.cls
class Classifier:
    """Holds the Keras model; Daft makes one for each process that it wants."""

    def __init__(self, model_file: str) -> None:
        import keras

        self._labels = (Path(model_file).parent / "labels.txt").read_text().splitlines()
        trained = keras.saving.load_model(model_file, safe_mode=True)
        pixels = keras.Input((224, 224, 3))
        normalised = keras.layers.Rescaling(1 / 128, offset=-127 / 128)(pixels)
        self._model = keras.Model(pixels, keras.layers.Softmax()(trained(normalised)))

    @daft.method.batch(  # type: ignore[untyped-decorator]
        return_dtype=daft.DataType.struct({"label": daft.DataType.string(), "confidence": daft.DataType.float64()}),
        batch_size=64,
    )
    def classify(self, images: daft.Series) -> list[dict[str, object]]:
        """One batch of uint8 (224, 224, 3)."""
        confidences = self._model.predict_on_batch(np.stack(images.to_pylist()))  # (B, K)
        return [{"label": self._labels[row.argmax()], "confidence": float(row.max())} for row in confidences]


def main(folder: Path, model_file: Path, database: Path) -> None:
    """Classify the folder."""
    paths = daft.from_glob_path(f"{folder}/*")
    images = paths.select("path", image=resize(decode_image(download(daft.col("path"))), 224, 224))
    answers = images.select("path", unnest(Classifier(str(model_file)).classify(daft.col("image"))))
    answers.write_sql("predictions", f"sqlite:///{database}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
