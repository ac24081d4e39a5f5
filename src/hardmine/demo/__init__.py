"""The demo: a drawn fridge world and the recipe that learns it within minutes."""
