"""A job as the batch scripts a cluster takes: rendering only, nothing is asked or sent."""
