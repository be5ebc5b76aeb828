"""kit: tools without domain words (clock, tasks, mailbox, back-off, certificates, logging set-up)."""
