"""Image quality metrics, each by the name of its definition, and protocols."""
