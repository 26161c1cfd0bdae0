"""Audio and text in, as the networks read them."""
