"""Commands of a checkout, and the instruments that measure the package."""
