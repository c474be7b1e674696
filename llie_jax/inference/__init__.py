"""Using a model on images of any size."""
