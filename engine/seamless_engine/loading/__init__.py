"""A folder or a hub id → checked tensors."""
