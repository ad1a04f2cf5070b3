"""Small U-Net of flows, which trains from nothing."""
