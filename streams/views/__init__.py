"""Web views of the worker: the dashboard, the read-only API under /api, and its live events.

`streams.views.pages.attach` adds them to the Faust application. They read all topics with their own consumer, so every
worker shows every market.
"""
