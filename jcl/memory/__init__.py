"""Memory of past tasks: buffers of examples and pseudo samples, as plain data."""
