"""What a run leaves on the disk: atomic files, sealed snapshots, one run a workdir."""
