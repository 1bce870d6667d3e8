"""Walk-forward evaluation, conformal calibration, scoring and plots."""
