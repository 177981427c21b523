"""Training data: examples as tokens, their order, their batches, and checks of all these."""
