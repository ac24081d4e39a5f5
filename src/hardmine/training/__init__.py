"""Training: assignment, selection, loss, recipes, the loop, checkpoints."""
