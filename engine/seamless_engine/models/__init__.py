"""The five networks of SeamlessM4T-v2 on packed tensors: no padding, no masks."""
