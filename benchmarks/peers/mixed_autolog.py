"""What a user would write today for three networks and three transfer modes: Optuna over Keras, MLflow's autolog.

python benchmarks/peers/mixed_autolog.py FOLDER TRIALS EPOCHS RESULT.json

FOLDER holds images.npz and `<network>.npz`, the source weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import mlflow
import numpy as np
import optuna
from networks import BUILDERS, build


def main(folder: Path, trials: int, epochs: int, result: Path) -> None:
    data = np.load(folder / "images.npz")
    train, validation = (data["train_pixels"], data["train_labels"]), (data["val_pixels"], data["val_labels"])
    size, classes = train[0].shape[1], int(train[1].max()) + 1
    grid = {"network": list(BUILDERS), "transfer": ["scratch", "frozen", "fine-tune"], "dropout": [0.2, 0.5]}
    if trials < 18:
        grid["dropout"] = [0.2]
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("mixed")
    mlflow.tensorflow.autolog()

    def objective(trial: optuna.Trial) -> float:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        name, transfer, dropout = (trial.suggest_categorical(key, levels) for key, levels in grid.items())
        model = build(name, transfer, folder / f"{name}.npz", size, classes, dropout)
        outputs = len(model.outputs)
        targets = ([train[1]] * outputs, [validation[1]] * outputs) if outputs > 1 else (train[1], validation[1])
        with mlflow.start_run():
            mlflow.log_params(trial.params)
            history = model.fit(
                train[0],
                targets[0],
                batch_size=32,
                epochs=epochs,
                validation_data=(validation[0], targets[1]),
                verbose=0,
            ).history
        return max(history["val_main_accuracy" if outputs > 1 else "val_accuracy"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GridSampler(grid, seed=0))
    study.optimize(objective, n_trials=trials)
    scores = {"/".join(map(str, trial.params.values())): trial.value for trial in study.trials}
    result.write_text(json.dumps(scores), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
