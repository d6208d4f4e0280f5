"""Foundations that know no model: registry, randomness, video, clips, checkpoints, the training loop."""
