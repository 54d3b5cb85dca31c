"""What talks to Slurm, here or on a login node: submissions, the queue, partitions, and what is noted down of them."""
