"""Following one image through every step from its label file to the loss and back, on a page."""
