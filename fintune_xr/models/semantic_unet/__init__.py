"""A small U-Net that gives each pixel a class."""
