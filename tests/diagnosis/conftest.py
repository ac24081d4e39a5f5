from tiny_training import squares, tiny_recipe

__all__ = ["squares", "tiny_recipe"]
