"""The trainer: state, step, loop, partitioning, checkpoints, writers."""
