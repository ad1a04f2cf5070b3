"""A U-shaped network with a transformer as encoder and a convolutional decoder, that gives each pixel a class."""
