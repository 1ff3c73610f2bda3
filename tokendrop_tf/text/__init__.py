"""Vocabulary, and text to token ids."""
