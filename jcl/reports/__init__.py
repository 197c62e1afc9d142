"""Reports on runs: metrics of the accuracy matrix, tables, pictures and one HTML page."""
