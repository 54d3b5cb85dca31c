"""Near duplicates and benchmark questions."""
