"""From documents to masked-LM examples: packing and masking."""
