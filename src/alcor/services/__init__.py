"""services: use cases, one file per resource, as functions of (indexes, command) -> changes."""
