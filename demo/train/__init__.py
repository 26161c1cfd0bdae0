"""The recipe of the demo's checkpoint: sentences, speech, tokens, three trainings, export. See README.md."""
