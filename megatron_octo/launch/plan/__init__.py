"""What a study will take before anything starts. Arithmetic only."""
