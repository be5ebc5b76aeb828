"""bench: the figures Alcor promises, measured with a reference beside them."""
