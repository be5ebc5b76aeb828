"""loops: the controller's reconcilers (commit, publish, status)."""
