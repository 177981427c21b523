"""What every script does alike with tensors and nobody edits: the only folder of `data/` whose modules import torch."""
