"""`python -m seamless_engine` is the command `seamless-engine`."""

from seamless_engine.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
