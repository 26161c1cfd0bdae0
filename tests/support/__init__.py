"""What several tests share: random checkpoints, the transformers oracle, synthetic clips."""
