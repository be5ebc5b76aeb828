"""wire: shapes that cross a process (protobuf, REST bodies)."""
