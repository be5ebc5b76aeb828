"""kit: tools without domain words (clock, back-off, certificates, logging set-up)."""
