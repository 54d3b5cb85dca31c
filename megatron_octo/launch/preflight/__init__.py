"""Before anything runs: what this machine has, and whether a cluster would take a job."""
