# make demo    what yaim does: three nodes with a private etcd, a client watching
# make quick   what is decided without processes and network: under a minute
# make test    all that a change has to pass: checks, tests, what libraries may change with each set
#              of them, the package on booted hosts (docs/testing.md)
# make test-all    all tests with every set of libraries, chaos, more of the simulation
# make check   only formatting, lint, types
# make test-pypi, make test-debian    only the tests, with PyPI's libraries; with those of Debian 12
#              and 13 (SUITE=trixie: one of them)
# make sim     random faults in virtual time; SEEDS=100000 for more
# make chaos   random faults in network namespaces, watched from outside; MINUTES=60 for more
# make deb     the Debian package, for Debian 12 and 13, in dist/
# make test-deb  the package on three hosts booted with systemd
# make man     the man pages and the completion for bash, zsh and fish, in dist/man/
# make fuzz    a fuzzer; TARGET=parser, wire, server (the helper) or etcd, INPUTS=1000000 for more
# make bench   the figures of the README and docs/, measured here
#
# Each sets up what it needs: Debian packages, and a virtual environment in .venv. Network
# namespaces need root; without it, sudo is used.

PYTHON3 ?= /usr/bin/python3
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# For a checkout that cannot be written to it is in the home directory.
VENV ?= $(if $(shell [ -w . ] && echo yes),.venv,$(HOME)/.cache/yaim/$(shell pwd | sha256sum | head -c 12))
BIN := $(VENV)/bin
export RUFF_CACHE_DIR := $(VENV)/ruff
export MYPY_CACHE_DIR := $(VENV)/mypy
SOURCES := yaim helper bench tests packaging
PACKAGES := python3-venv etcd-server etcd-client faketime iproute2 openssl procps \
	libpq5 man-db nftables postgresql pgbouncer patroni python3-etcd zsh fish

# What only these want.
DEB_PACKAGES := git build-essential debhelper dh-python dh-apparmor pybuild-plugin-pyproject lintian \
	python3-hatchling python3-requests python3-shtab python3-yaml
TEST_DEB_PACKAGES := $(DEB_PACKAGES) systemd-container e2fsprogs
quick check man: PACKAGES := python3-venv openssl libpq5 iproute2
deb: PACKAGES := $(DEB_PACKAGES)
bench: PACKAGES += curl default-jdk-headless keepalived libpostgresql-jdbc-java
test test-all test-debian test-deb: PACKAGES += mmdebstrap
test test-all test-deb: PACKAGES += $(TEST_DEB_PACKAGES)

.PHONY: demo quick test test-all test-pypi test-debian test-deb check deb man sim chaos fuzz bench \
	setup packages

demo: setup
	$(SUDO) $(BIN)/yaim lab run

quick: setup
	$(SUDO) $(BIN)/python -m pytest -p no:cacheprovider --group=quick tests

test: setup check
	$(SUDO) $(BIN)/python -m tests.sets

test-all: setup check
	$(SUDO) $(BIN)/python -m tests.sets --all

test-pypi: setup
	$(SUDO) $(BIN)/python -m tests.sets pypi

SUITE ?= bookworm trixie
test-debian: setup
	$(SUDO) $(BIN)/python -m tests.sets $(SUITE)

deb: packages
	packaging/build-deb dist
	lintian --fail-on error,warning,info --display-info --info dist/yaim_*_all.deb

test-deb: setup
	$(SUDO) $(BIN)/python -m tests.deb

man: setup
	$(BIN)/python packaging/manual/make.py dist/man

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

TARGET ?= server
INPUTS ?= 100000
fuzz: setup
	$(BIN)/python -c 'import atheris' 2>/dev/null || \
		$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[fuzz]'
	$(SUDO) $(BIN)/python -m tests.fuzz $(TARGET) --inputs $(INPUTS)

ROUNDS ?= 5
bench: setup
	$(SUDO) $(BIN)/python -m bench.figures --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.outages --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.checks --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.lifetimes
	$(SUDO) $(BIN)/python -m bench.helper --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.placement --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.floods
	$(SUDO) $(BIN)/python -m bench.fence --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.packets
	$(SUDO) $(BIN)/python -m bench.silences --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.clients --rounds $(ROUNDS)
	$(SUDO) $(BIN)/python -m bench.client_settings
	$(SUDO) $(BIN)/python -m bench.steering --rounds $(ROUNDS)

# The lab's nodes run the code as other users; what root would compile in its own name is compiled before.
setup: packages $(VENV)/ready
	@[ ! -w . ] || [ -z "$$(find . -maxdepth 0 ! -perm -5; find $(SOURCES) ! -perm -4 -print -quit)" ] || \
		{ echo "letting other users read the code: chmod -R go+rX"; chmod -R go+rX $(SOURCES) && chmod go+rx .; }
	@[ ! -w . ] || [ -z "$(SUDO)" ] || $(BIN)/python -m compileall -q $(SOURCES)

# Debian starts services of its own when some of these are installed; nothing here wants them. With
# systemd they are masked meanwhile; without it RUNLEVEL=1 keeps invoke-rc.d from starting them. Any
# PostgreSQL server that is there already will do.
packages:
	@missing=$$(for p in $(PACKAGES); do \
		[ $$p = postgresql ] && ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && continue; \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q ' installed' || echo $$p; done); \
	[ -n "$$missing" ] || exit 0; \
	echo "installing Debian packages:" $$missing; \
	services=$$([ ! -d /run/systemd/system ] || for p in $$missing; do \
		case $$p in etcd-server) echo etcd ;; postgresql | pgbouncer | keepalived) echo $$p ;; esac; done); \
	[ -z "$$services" ] || $(SUDO) systemctl mask --quiet $$services; \
	$(SUDO) apt-get update -qq && \
	$(SUDO) env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	status=$$?; \
	[ -z "$$services" ] || { $(SUDO) systemctl unmask --quiet $$services; \
		$(SUDO) systemctl disable --quiet $$services; }; \
	exit $$status

$(VENV)/ready: pyproject.toml | packages
	@echo "setting up the virtual environment $(VENV)"
	umask 022 && mkdir -p $(dir $(VENV)) && $(PYTHON3) -m venv $(VENV) && \
		$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[dev]'
	touch $@
