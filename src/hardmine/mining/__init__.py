"""The pool: what a detector saw on it, what was handed out of it, what people decided."""
