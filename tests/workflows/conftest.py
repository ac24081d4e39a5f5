"""The fixtures of a small loop."""

from loop_fixtures import inputs, no_page, quick_disk

__all__ = ["inputs", "no_page", "quick_disk"]
