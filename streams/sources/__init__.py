"""The exchanges: one module each behind the interface of `contracts`.

Adding one: write a module whose class has the members of `QuoteSource` (and of `CandleSource` where it has candles),
give its settings a section in config, and name it in `exchanges`.
"""
