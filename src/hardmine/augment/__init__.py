"""Augmentation: a sample through expand, crop, colour, paste and mosaic."""
