"""Build: maps the folders engine/ and kernels/ to their import names. All metadata is in pyproject.toml."""

from setuptools import find_packages, setup

# kernels/ has no __init__.py on purpose: a top-level package of that name breaks transformers and overwrites
# Hugging Face's `kernels`. Hence the import names below, and modules rather than re-exports.
setup(
    package_dir={"seamless_engine": "engine", "seamless_kernels": "kernels"},
    packages=[
        "seamless_engine",
        *(f"seamless_engine.{name}" for name in find_packages("engine")),
        "seamless_kernels",
    ],
    package_data={"seamless_engine": ["py.typed"], "seamless_kernels": ["py.typed"]},
)
