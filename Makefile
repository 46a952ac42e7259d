# make demo    what yaim does: three nodes with a private etcd, a client watching
# make test    all checks and tests, with every set of libraries
# make check   only formatting, lint, types
# make test-pypi, make test-debian    only the tests, with PyPI's libraries; with those of Debian 12
#              and 13 (SUITE=trixie: one of them)
# make sim     random faults in virtual time; SEEDS=100000 for more
# make chaos   random faults in network namespaces, watched from outside; MINUTES=60 for more
# make bench   the figures of the README, measured here
#
# Each sets up what it needs: Debian packages, and a virtual environment in .venv. Network
# namespaces need root; without it, sudo is used.

PYTHON3 ?= /usr/bin/python3
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BIN := .venv/bin
SOURCES := yaim helper bench tests
PACKAGES := python3-venv etcd-server etcd-client faketime iproute2 openssl procps debootstrap \
	postgresql patroni

.PHONY: demo test test-pypi test-debian check sim chaos bench setup packages

demo: setup
	$(SUDO) $(BIN)/yaim lab run

test: check
	$(SUDO) $(BIN)/python -m tests.sets

test-pypi: setup
	$(SUDO) $(BIN)/python -m tests.sets pypi

SUITE ?= bookworm trixie
test-debian: packages
	$(SUDO) $(PYTHON3) -m tests.sets $(SUITE)

check: setup
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy $(SOURCES)

SEEDS ?= 2000
FIRST ?= 0
sim: setup
	$(BIN)/python -m tests.sim --first $(FIRST) --seeds $(SEEDS)

MINUTES ?= 3
chaos: setup
	$(SUDO) $(BIN)/python -m bench.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

ROUNDS ?= 5
bench: setup
	$(SUDO) $(BIN)/python -m bench.figures --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.outages --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.lifetimes

setup: packages .venv/ready

# Debian starts an etcd of its own when etcd-server is installed; nothing here wants it.
packages:
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null \
		| grep -q ' installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		echo "installing Debian packages:" $$missing; \
		case "$$missing" in *etcd-server*) [ -d /run/systemd/system ] && \
			$(SUDO) systemctl mask --quiet etcd ;; esac; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			$$missing >/dev/null || exit 1; \
		case "$$missing" in *etcd-server*) [ -d /run/systemd/system ] && \
			$(SUDO) systemctl unmask --quiet etcd && $(SUDO) systemctl disable --quiet etcd ;; \
		esac; true; \
	fi

.venv/ready: pyproject.toml | packages
	@echo "setting up the virtual environment .venv"
	$(PYTHON3) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 \
		--editable '.[dev]'
	touch $@
