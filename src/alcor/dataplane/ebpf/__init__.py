"""ebpf: the default driver; one program at each port, one at the tunnel end."""
