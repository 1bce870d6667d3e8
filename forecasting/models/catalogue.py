"""All models, by name."""

from collections.abc import Callable
from typing import Final

from forecasting.models.baselines import Boosting, Drift, Ewma, LastPrice, Persistence, Ridge
from forecasting.models.har import Har
from forecasting.models.interface import Model
from forecasting.models.lstm_plain import LstmPlain
from forecasting.models.lstm_quantile import LstmQuantile
from forecasting.models.network import Training
from marketdata.errors import ForecastError

_MAKERS: Final[dict[str, Callable[[Training], Model]]] = {
    LastPrice.name: lambda _: LastPrice(),
    Persistence.name: lambda _: Persistence(),
    Drift.name: lambda _: Drift(),
    Ewma.name: lambda _: Ewma(),
    "har": lambda _: Har(),
    "har-rich": lambda _: Har(rich=True),
    Ridge.name: lambda _: Ridge(),
    Boosting.name: lambda _: Boosting(),
    LstmPlain.name: LstmPlain,
    LstmQuantile.name: LstmQuantile,
}
NAMES = tuple(_MAKERS)
REFERENCE = LastPrice.name


def make(name: str, training: Training) -> Model:
    """Create an unfitted model.

    Raises:
        ForecastError: no model has this name.
    """
    try:
        return _MAKERS[name](training)
    except KeyError:
        raise ForecastError(f"model: {name!r}: expected one of {', '.join(NAMES)}") from None
