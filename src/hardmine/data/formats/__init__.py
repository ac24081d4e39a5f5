"""Label formats: reading, writing, recognising and validating them."""
