"""The operations of SeamlessM4T-v2: one file each, with the formula, a torch reference and the Triton kernel."""
