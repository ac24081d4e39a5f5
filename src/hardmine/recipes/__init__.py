"""Recipes: every choice of a training run as one value; named recipes, weights and checkpoints."""
