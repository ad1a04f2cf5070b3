"""What all models share that give each pixel a class."""
