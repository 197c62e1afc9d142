"""A package of somebody else: a method, its settings, and what is no method."""
