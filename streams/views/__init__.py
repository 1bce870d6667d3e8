"""Web views of the worker: the dashboard, the read-only API under /api, and its live events.

`attach` is all that the application needs. The views follow the topics with a consumer of their own, so that every
worker answers for every market. They must never write to a topic or a table.
"""

from streams.views.pages import attach

__all__ = ["attach"]
