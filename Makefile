# One word for each thing a developer does. `make lab` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BPF_C  := src/alcor/dataplane/ebpf/alcor.bpf.c
BPF_H  := $(wildcard src/alcor/dataplane/ebpf/*.h)
BPF_O  := src/alcor/dataplane/ebpf/alcor.bpf.o
LAB    ?= --hosts 100 --ports 1000 --report build/lab

.PHONY: help setup lab test check bench clean
help:            ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

setup: $(VENV)/.ready $(BPF_O)   ## system packages, .venv, compiled data plane

lab: setup       ## 100 hosts, 1,000 ports, real packets; report in build/lab
	$(BIN)/alcor lab $(LAB)

test: setup      ## the whole test suite
	scripts/test

check: setup     ## everything CI checks: format, lint, types, contracts, generated files, tests
	scripts/check

bench: setup     ## every benchmark, JSON in build/bench
	$(BIN)/alcor bench all --out build/bench

$(VENV)/.ready: requirements.lock pyproject.toml scripts/system-packages
	scripts/system-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(BPF_O): $(BPF_C) $(BPF_H) | $(VENV)/.ready
	clang -O2 -g -Wall -Werror -target bpf -I/usr/include/$(shell uname -m)-linux-gnu -c $< -o $@
	llvm-strip -g $@

clean:           ## what the build made (not the virtual environment)
	rm -rf build $(BPF_O)
