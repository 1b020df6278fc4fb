"""What a user would write today: Optuna over Keras, recorded by MLflow's autolog.

python benchmarks/peers/optuna_autolog.py IMAGES.npz TRIALS EPOCHS RESULT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import mlflow
import numpy as np
import optuna
from network import frozen_vgg16


def main(images: str, trials: int, epochs: int, result: str) -> None:
    data = np.load(images)
    train, validation = (data["train_pixels"], data["train_labels"]), (data["val_pixels"], data["val_labels"])
    size, classes = train[0].shape[1], int(train[1].max()) + 1
    grid = {
        "batch_size": [16, 32, 64],
        "dropout": [0.2, 0.5] if trials <= 6 else [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5],
    }
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("frozen")
    mlflow.tensorflow.autolog()

    def objective(trial: optuna.Trial) -> float:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        batch_size = trial.suggest_categorical("batch_size", grid["batch_size"])
        dropout = trial.suggest_categorical("dropout", grid["dropout"])
        model = frozen_vgg16(Path(images).with_name("weights.npz"), size, classes, dropout, 1e-4)
        with mlflow.start_run():
            mlflow.log_params(trial.params)
            history = model.fit(*train, batch_size=batch_size, epochs=epochs, validation_data=validation, verbose=0)
        return max(history.history["val_accuracy"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GridSampler(grid, seed=0))
    study.optimize(objective, n_trials=trials)
    with open(result, "w", encoding="utf-8") as file:
        json.dump([trial.value for trial in study.trials], file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
