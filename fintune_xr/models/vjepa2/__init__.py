"""Encoders of volumes pretrained in the way of V-JEPA 2."""
