"""For handler authors: an in-memory cluster in one line."""
