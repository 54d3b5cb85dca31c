"""Documents out, with a card, and the published data sets in."""
