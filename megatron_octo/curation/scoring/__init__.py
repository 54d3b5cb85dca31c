"""A sample scored by a language model, fastText on its scores, and what that keeps."""
