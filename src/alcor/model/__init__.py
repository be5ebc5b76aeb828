"""model: the nouns and address allocation. Pure."""
