"""The one-file HTML report and the pictures in it."""
