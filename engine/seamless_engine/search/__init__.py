"""The search of a decode step: its state, the logits processors, and the choice of beams and hypotheses."""
