"""A generated web to try curation on."""
