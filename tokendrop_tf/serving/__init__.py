"""Serving exported models over HTTP, as TF Serving's REST interface does."""
