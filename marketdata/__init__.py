"""The language of the project: markets, records, codec, topics, enrichment, windows and features.

Pure: it must never import Faust, Spark, Keras, httpx or config, do I/O, or read a clock or the environment.
"""
