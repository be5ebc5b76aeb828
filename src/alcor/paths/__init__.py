"""paths: getting goal state to a host (fast)."""
