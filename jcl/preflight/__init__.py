"""Size and cost of a run before it starts: rows, bytes, operations."""
