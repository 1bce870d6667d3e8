"""The sources of a worker: built from the settings, and compared with the limits of the exchanges.

The exchanges themselves are modules of `exchanges/`. To add one, see docs/sources.md.
"""
