"""What a model learns from: examples as tokens, their order and batches, and what is wrong with them."""
