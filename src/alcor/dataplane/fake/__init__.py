"""fake: a software switch in Python, the executable model of the pipeline."""
