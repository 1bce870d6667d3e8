"""Training of one market's model, in this process or in a child process."""
