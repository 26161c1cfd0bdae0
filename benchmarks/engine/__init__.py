"""The engine as a whole, against transformers and CTranslate2: `python -m benchmarks.engine`."""
