"""Historical klines for backfill: request plan, download, downloaded archives, conversion to Arrow."""
