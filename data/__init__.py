"""The benchmark: Spider's files, the prompt, running and scoring SQL, the embedded sample. Nothing here knows a model."""

from data.errors import UserError

__all__ = ["UserError"]
