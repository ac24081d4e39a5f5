"""Comparing recipes and loops on one data set, with paired intervals."""
