"""Pages for people: HTML in one file, and charts as SVG."""
