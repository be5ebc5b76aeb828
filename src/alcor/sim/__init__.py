"""sim: a simulated region on virtual time, with a seed: production rooms, a faulty network, invariants at every step."""
