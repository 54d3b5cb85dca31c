"""Documents rewritten by a language model."""
