"""Reports: self-contained HTML pages, and charts as SVG."""
