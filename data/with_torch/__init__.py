"""What every script does alike with tensors and nobody edits: the only room whose modules import torch."""
