"""What a model answered: held to a grammar, chosen among candidates, scored."""
