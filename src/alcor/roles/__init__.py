"""roles: the only wiring (server, agent, lab, bench) and the command line that starts it."""
