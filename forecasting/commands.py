"""The commands of `python -m forecasting`: each builds its parts from the settings and runs them."""

import argparse
import asyncio
import sys

from clients.clock import build_clock
from clients.kafka.status import PartReporter, StatusPublisher
from clients.stop_signals import stop_event
from clients.webhdfs import WebHdfs
from config.settings import Settings
from forecasting.evaluation import plots
from forecasting.registry.versions import Registry
from forecasting.serving.threads import in_thread
from marketdata.arguments import find_market
from marketdata.codec import encode
from marketdata.errors import ArgumentError, ForecastError
from marketdata.printable import write_line
from marketdata.vocabulary import Activity, ProductPart

_FINISH_S = 2.0  # of the 5 s in which a program ends; the rest is for closing clients (GRACEFUL_CLOSE_S)


# Of the service, which updates its markets one after another: a hanging NameNode must not hold all of them for minutes.
_HDFS_TIMEOUT_S, _HDFS_ATTEMPTS = 10.0, 2


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run the command of parsed arguments; return the exit code."""
    if args.command == "report":
        from forecasting.models import catalogue
        from forecasting.report import write_report

        symbol = find_market(args.symbol or settings.forecasting.symbols[0], settings.markets, "--symbol")
        names = None if args.models is None else [name.strip() for name in args.models.split(",")]
        for name in names or ():
            if name not in catalogue.NAMES:
                raise ArgumentError("--models", name, f"one of {', '.join(catalogue.NAMES)}")
        write_report(_storage(settings), settings, symbol=symbol, names=names, quick=args.quick, progress=progress)
        return 0
    chosen = args.symbol or settings.forecasting.symbols
    symbols = tuple(dict.fromkeys(find_market(symbol, settings.markets, "--symbol") for symbol in chosen))
    if args.command == "train":
        return _train(settings, symbols, args.model or settings.forecasting.model)
    if args.command == "predict":
        return _predict(settings, symbols)
    forecasting = settings.forecasting.model_copy(update={"symbols": symbols})
    settings = settings.model_copy(update={"forecasting": forecasting})
    with StatusPublisher(settings) as statuses:
        return asyncio.run(_serve(settings, statuses))


def progress(what: str, done: int, total: int) -> None:
    """Print progress to stderr as `progress: WHAT DONE/TOTAL`, which the demo reads."""
    write_line(sys.stderr, f"progress: {what} {done}/{total}")


def _storage(settings: Settings) -> WebHdfs:
    storage = WebHdfs(settings.hdfs)
    storage.wait()
    return storage


def _train(settings: Settings, symbols: tuple[str, ...], model: str) -> int:
    with StatusPublisher(settings) as statuses:
        trainer = statuses.part(ProductPart.TRAINER)
        _train_each(settings, symbols, model, trainer)
        trainer.end(Activity.DONE, f"trained {model} for {', '.join(symbols)}")
    return 0


def _train_each(settings: Settings, symbols: tuple[str, ...], model: str, trainer: PartReporter) -> None:
    from forecasting.training.trainer import train

    storage = _storage(settings)
    for symbol in symbols:
        registry = Registry(storage, settings.hdfs.models, symbol)
        trainer.running(f"{model} for {symbol}")
        trained = train(
            storage,
            hourly_folder=settings.hdfs.hourly_metrics,
            registry=registry,
            symbol=symbol,
            model_name=model,
            settings=settings.forecasting,
            progress=progress,
        )
        png = plots.draw(trained.held_out, trained.samples, f"{symbol}: held-out hours, {trained.version}")
        storage.write(registry.path(trained.version, "plot.png"), png)
        latest = settings.forecasting.plot_path  # the dashboard shows this file: the champion's plot
        plots.save(png, latest if trained.verdict.promoted else latest.with_name(f"{model}.png"))


def _predict(settings: Settings, symbols: tuple[str, ...]) -> int:
    from forecasting.serving.predictor import forecast_set, newest_hour
    from forecasting.training.trainer import load_samples

    storage = _storage(settings)
    clock = build_clock(settings, wait_s=settings.hdfs.wait_s)
    for symbol in symbols:
        _, samples = load_samples(storage, settings.hdfs.hourly_metrics, symbol, settings.forecasting)
        at = newest_hour(samples)
        if at is None:
            raise ForecastError(f"hourly_metrics: no hour of {symbol} with a price: expected at least one")
        registry = Registry(storage, settings.hdfs.models, symbol)
        champion = registry.load_champion(set())
        loaded = None if champion is None else champion[0]
        forecasts = forecast_set(samples, at, loaded, settings.forecasting, issued_at_ms=clock.now_ms())
        for prediction in forecasts.predictions:
            write_line(sys.stdout, encode(prediction).decode())
    return 0


async def _serve(settings: Settings, statuses: StatusPublisher | None = None) -> int:
    from forecasting.serving.service import PredictorService

    stop = stop_event()

    async def serve() -> None:
        clock = await in_thread(lambda: build_clock(settings, wait_s=settings.hdfs.wait_s))
        storage = WebHdfs(settings.hdfs, timeout_s=_HDFS_TIMEOUT_S, attempts=_HDFS_ATTEMPTS)
        await PredictorService(settings, storage, clock, statuses).run(stop)

    serving = asyncio.ensure_future(serve())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    # An update can be in a long step (loading a model). Cancel it after a moment; it then publishes nothing.
    done, _ = await asyncio.wait({serving}, timeout=_FINISH_S)
    if not done:
        serving.cancel()
    stopping.cancel()
    results = await asyncio.gather(serving, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]
    return 0
