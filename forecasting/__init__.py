"""Forecasts of the next hour's average price: dataset, models, evaluation, registry, trainer, predictor, scoring.

Imports marketdata and config, never streams, batch or devstack: it meets them at topics and Parquet files.
"""
