"""Where stages stand, what they say, and what fed them, read from what they left."""
