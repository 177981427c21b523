"""A run: its folder, options, checkpoints and signals, and questions from the command line."""
