"""The report's Markdown."""

from forecasting.report import markdown


def test_the_report_shows_a_dash_for_an_unknown_metric() -> None:
    text = markdown(
        {
            "symbol": "BTC-USD",
            "quick": True,
            "gap_h": 60,
            "scored_from": "a",
            "scored_to": "b",
            "epochs": 1,
            "seeds": [0],
            "data": {"rows": 2, "sha256": "0" * 64, "by_basis": {"ticks": 2}},
            "lines": [{"model": "last-price", "n": 2, "rmse_bps": 1.0, "direction_share": float("nan")}],
        }
    )
    assert "| last-price | 2 | 1.00 | – |" in text
