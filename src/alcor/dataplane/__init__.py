"""dataplane: hands (base, ebpf, fake)."""
