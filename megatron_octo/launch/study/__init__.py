"""A study as a graph of jobs, and what it stands on."""
