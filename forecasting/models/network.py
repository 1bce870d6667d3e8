"""The nets and their training. Operations are of `keras.ops` only, so that any Keras back end works."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from forecasting.models.interface import Progress
from forecasting.models.keras_backend import load_keras
from marketdata.errors import ForecastError

Float32s = npt.NDArray[np.float32]
PREDICT_BATCH = 256


@dataclass(frozen=True, slots=True)
class Training:
    """Training budget of a net; not used for prediction. max_windows: only the newest; None: all."""

    epochs: int = 50
    batch_size: int = 128
    patience: int = 5
    seeds: tuple[int, ...] = (0,)
    max_windows: int | None = None


def lstm(steps: int, inputs: int, outputs: int, *, ascending: bool) -> Any:
    """LSTM 50 → Dropout .2 → LSTM 50 → Dropout .2 → Dense(outputs), sorted if `ascending`."""
    keras = load_keras()
    into = keras.Input((steps, inputs))
    x = keras.layers.LSTM(50, return_sequences=True)(into)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.LSTM(50)(x)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(outputs)(x)
    if ascending:
        x = keras.ops.sort(x, axis=-1)
    return keras.Model(into, x)


def pinball_loss(levels: tuple[float, ...]) -> Any:
    """Mean pinball loss over the levels (Koenker and Bassett 1978): target (batch, 1), quantiles (batch, levels)."""
    ops = load_keras().ops

    def loss(target: Any, quantiles: Any) -> Any:
        tau = ops.convert_to_tensor(np.asarray(levels, dtype="float32"))
        error = target - quantiles
        return ops.mean(ops.maximum(tau * error, (tau - 1.0) * error), axis=-1)

    return loss


def train(
    net: Any,
    loss: Any,
    data: tuple[Float32s, Float32s],
    validation: tuple[Float32s, Float32s],
    training: Training,
    progress: Progress,
    what: str,
) -> list[float]:
    """Adam 1e-3, clipnorm 1, early stopping on the validation block with the best weights restored.

    Returns:
        The validation loss of each epoch.
    """
    keras = load_keras()
    net.compile(optimizer=keras.optimizers.Adam(1e-3, clipnorm=1.0), loss=loss)
    whole = len(data[0]) // training.batch_size * training.batch_size
    if whole:
        # A shorter last batch would be compiled separately, so the oldest windows are dropped instead.
        data = (data[0][-whole:], data[1][-whole:])
    fill = -len(validation[0]) % PREDICT_BATCH
    weights = np.concatenate([np.ones(len(validation[0])), np.zeros(fill)]).astype("float32")
    padded = tuple(np.concatenate([a, np.repeat(a[-1:], fill, axis=0)]) for a in validation)
    history = net.fit(
        *data,
        batch_size=training.batch_size,
        epochs=training.epochs,
        validation_data=(*padded, weights),
        validation_batch_size=PREDICT_BATCH,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=training.patience, restore_best_weights=True),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: progress(  # noqa: ARG005  Keras defines the signature
                    f"{what} epoch", epoch + 1, training.epochs
                )
            ),
        ],
    )
    return [float(value) for value in history.history["val_loss"]]


def bare(net: Any) -> Any:
    """Copy a net without loss and optimizer, so that any Keras installation can load its file."""
    copy = type(net).from_config(net.get_config())
    copy.set_weights(net.get_weights())
    return copy


def average(nets: list[Any]) -> Any:
    """Combine nets of the same shape into one that outputs their mean."""
    if len(nets) == 1:
        return nets[0]
    keras = load_keras()
    into = keras.Input(nets[0].input_shape[1:])
    copies = [bare(net) for net in nets]
    for number, copy in enumerate(copies):
        copy.name = f"seed_{number}"
    return keras.Model(into, keras.layers.Average()([copy(into) for copy in copies]))


def run(net: Any, inputs: Float32s) -> Float32s:
    """Return the net's outputs. Inputs are padded to whole batches, so that few shapes are compiled."""
    size = 1 if len(inputs) == 1 else PREDICT_BATCH
    fill = -len(inputs) % size
    padded = np.concatenate([inputs, np.repeat(inputs[-1:], fill, axis=0)]) if fill else inputs
    out: Float32s = net.predict(padded, batch_size=size, verbose=0)[: len(inputs)]
    return out


def to_bytes(net: Any) -> bytes:
    """Return the net, without loss and optimizer, as a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        bare(net).save(path)
        return path.read_bytes()


def from_bytes(data: bytes) -> Any:
    """Load the net of a `.keras` file. Only layers and operations of Keras itself are accepted.

    Raises:
        ForecastError: the file cannot be loaded.
    """
    keras = load_keras()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # also of zipfile, h5py and the layers
            raise ForecastError(f"model.keras: cannot be loaded: {error}") from error


def weights_digest_input(net: Any) -> bytes:
    """Return the weights as bytes, for a digest; the file itself contains its save time."""
    return b"".join(np.ascontiguousarray(w).tobytes() for w in net.get_weights())
