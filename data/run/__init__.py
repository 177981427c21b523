"""A run and its folder: options, checkpoints, signals, questions from the command line."""
