"""Training losses, and their weighted sum."""
