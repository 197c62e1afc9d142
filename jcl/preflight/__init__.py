"""What a run will read, hold and cost, before it starts."""
