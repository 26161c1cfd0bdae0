"""The search of a decode step: its tables, what it may choose, and which hypotheses win."""
