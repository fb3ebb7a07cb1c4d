"""Train a network: the loop, the learner, schedules, losses, metrics, checkpoints."""
