"""The files of a run: written atomically, sealed in snapshots, locked while the run works."""
