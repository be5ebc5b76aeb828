"""lab: real hosts in namespaces on one machine, proofs and the report."""
