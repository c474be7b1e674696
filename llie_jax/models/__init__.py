"""Models, one file per paper; importing this package registers them."""
