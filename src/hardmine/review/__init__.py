"""A person's verdicts on candidates."""
