"""Weights in any form, read into a model by name."""
