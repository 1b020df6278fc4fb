"""What a user would write today: KerasTuner's GridSearch.

python benchmarks/peers/keras_tuner_grid.py IMAGES.npz TRIALS EPOCHS RESULT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
from network import frozen_vgg16


class FrozenVgg16(keras_tuner.HyperModel):
    """Batch size and dropout as hyperparameters."""

    def __init__(self, source: Path, size: int, classes: int, dropouts: list[float]) -> None:
        super().__init__()
        self.source, self.size, self.classes, self.dropouts = source, size, classes, dropouts

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        keras.utils.set_random_seed(0)
        return frozen_vgg16(self.source, self.size, self.classes, hp.Choice("dropout", self.dropouts), 1e-4)

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *arguments: Any, **keywords: Any) -> Any:
        return model.fit(*arguments, batch_size=hp.Choice("batch_size", [16, 32, 64]), **keywords)


def main(images: str, trials: int, epochs: int, result: str) -> None:
    data = np.load(images)
    train, validation = (data["train_pixels"], data["train_labels"]), (data["val_pixels"], data["val_labels"])
    dropouts = [0.2, 0.5] if trials <= 6 else [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5]
    hypermodel = FrozenVgg16(
        Path(images).with_name("weights.npz"), train[0].shape[1], int(train[1].max()) + 1, dropouts
    )
    tuner = keras_tuner.GridSearch(
        hypermodel, objective="val_accuracy", max_trials=trials, directory="tuner", overwrite=True
    )
    tuner.search(*train, epochs=epochs, validation_data=validation, verbose=0)
    scores = [trial.score for trial in tuner.oracle.trials.values()]
    with open(result, "w", encoding="utf-8") as file:
        json.dump(scores, file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
