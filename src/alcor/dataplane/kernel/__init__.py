"""kernel: the doors to Linux: netlink, network namespaces, bpf(2)."""
