"""The predictor service: it predicts, scores and retrains for each market."""
