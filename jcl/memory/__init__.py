"""What the past leaves: buffers of examples and pseudo samples, as plain data."""
