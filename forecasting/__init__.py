"""Forecasts of the next hour's average price: data, models, evaluation, registry, training, serving."""
