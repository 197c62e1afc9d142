"""What a run comes to: metrics, tables, pictures, one page."""
