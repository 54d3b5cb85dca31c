"""The texts of `list` and `show`. Arithmetic only."""
