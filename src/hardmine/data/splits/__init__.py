"""Splits, what must stay on one side of them, and near-duplicates."""
