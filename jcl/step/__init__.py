"""One optimisation step: losses, optimiser, sharding, the pmapped train step."""
