"""Pure functions on image arrays, and reading and writing image files."""
