"""Documents from files, TFDS and the built-in corpus."""
