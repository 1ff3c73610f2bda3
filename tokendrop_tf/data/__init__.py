"""Text to masked-LM examples: corpus, vocabulary, packing, masking, loader."""
