"""Walk-forward evaluation, metrics, conformal calibration, scoring and plots."""
