"""Training of models, in this process or in a child process."""
