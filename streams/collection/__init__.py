"""Collection of quotes and candles from the exchanges: polling, streaming, and the ticks built from both."""
