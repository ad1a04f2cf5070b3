"""SAM 2 that gives each pixel a class by itself."""
