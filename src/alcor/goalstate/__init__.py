"""goalstate: what each host and each VPC must know. Pure."""
