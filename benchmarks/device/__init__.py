"""First checks and measurements on a machine with a card: `python -m benchmarks.device prepare | check | measure`."""
