"""The worker process: clock, logging, health, start-up checks, shutdown and the stall watchdog."""
