"""Who is asked, what is remembered of it, and what it may cost."""
