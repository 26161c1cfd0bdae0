"""The command `seamless-engine`, and `python -m seamless_engine`."""

import signal


def main() -> int:
    """Run the command line of this process and return the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C during the imports below
    from seamless_engine import cli

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
