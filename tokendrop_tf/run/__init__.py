"""A run: its folder, lock, checkpoints, loop, signals, workers and console."""
