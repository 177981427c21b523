"""A model's answers: constrained by a grammar, chosen among candidates, scored."""
