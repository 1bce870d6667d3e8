"""Exchange APIs: wire formats, HTTP and WebSocket transport, and retry classification."""
