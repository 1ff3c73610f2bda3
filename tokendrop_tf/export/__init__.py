"""Models in the forms that others read, and weights read from these forms."""
