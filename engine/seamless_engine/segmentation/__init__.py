"""Long audio and long text: where they are cut, and whether a transcript is plausible. Pure functions."""
