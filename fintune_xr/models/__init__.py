"""Segmenters: one adapter per library, one protocol for all."""
