"""store: desired state, durable (base, memory, sqlite)."""
