"""The simulator: the production rooms on virtual time, under faults drawn by a seed (docs/rooms/sim.md)."""
