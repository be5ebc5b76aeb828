"""bus: messages between processes (base, nats)."""
