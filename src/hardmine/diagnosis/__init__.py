"""Why hard mining does not help here: evidence, hypotheses and the page of ``hardmine diagnose``."""
