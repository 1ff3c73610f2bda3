"""BERT pretraining with token dropping on the TensorFlow Model Garden.

This module imports nothing, so that asking for the version stays instant.
"""

__version__ = '0.1.0'
