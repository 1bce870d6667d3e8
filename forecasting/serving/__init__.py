"""The predictor service: it predicts, scores and schedules training for each market."""
