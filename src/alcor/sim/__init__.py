"""sim: a simulated region on virtual time: production rooms, a seed, a faulty network, invariants at every step."""
