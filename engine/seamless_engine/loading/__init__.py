"""Loading: a folder or a hub id → checked tensors."""
