"""Forecasts: dataset, models, evaluation, registry, trainer, predictor, scoring."""
