"""CLIP: how alike images and sentences are."""
