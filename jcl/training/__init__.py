"""The loop over tasks: what it is made of, what it asks of a method, what it writes down."""
