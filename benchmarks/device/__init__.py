"""First checks and measurements on a machine with a GPU: `python -m benchmarks.device prepare | check | measure`."""
