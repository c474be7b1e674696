"""Training: state, step, devices, optimizer, checkpoints, loop."""
