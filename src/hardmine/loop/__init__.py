"""Experiments: one training with its measurement, and the loop of rounds and arms."""
