# make demo    what yaim does: three nodes with a private etcd, a client watching
# make test    all checks and tests, with every set of libraries
# make check   only formatting, lint, types
# make test-pypi, make test-debian    only the tests, with PyPI's libraries; with those of Debian 12
#              and 13 (SUITE=trixie: one of them)
# make sim     random faults in virtual time; SEEDS=100000 for more
# make chaos   random faults in network namespaces, watched from outside; MINUTES=60 for more
# make deb     the Debian package, for Debian 12 and 13, in dist/
# make test-deb  the package on three hosts booted with systemd
# make man     the man pages and the completion for bash, in dist/man/
# make fuzz    a fuzzer against the helper; TARGET=parser, wire or server, INPUTS=1000000 for more
# make bench   the figures of the README and docs/, measured here
#
# Each sets up what it needs: Debian packages, and a virtual environment in .venv. Network
# namespaces need root; without it, sudo is used.

PYTHON3 ?= /usr/bin/python3
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BIN := .venv/bin
SOURCES := yaim helper bench tests packaging
PACKAGES := python3-venv etcd-server etcd-client faketime iproute2 openssl procps debootstrap \
	libpq5 man-db postgresql pgbouncer patroni python3-etcd

# What only these want.
DEB_PACKAGES := build-essential debhelper dh-python dh-apparmor pybuild-plugin-pyproject lintian \
	python3-hatchling python3-requests python3-yaml
TEST_DEB_PACKAGES := $(DEB_PACKAGES) systemd-container e2fsprogs
deb: PACKAGES := git $(DEB_PACKAGES)
test-deb: PACKAGES += git $(TEST_DEB_PACKAGES)

.PHONY: demo test test-pypi test-debian test-deb check deb man sim chaos fuzz bench setup packages

demo: setup
	$(SUDO) $(BIN)/yaim lab run

test: check
	$(SUDO) $(BIN)/python -m tests.sets
	$(MAKE) test-deb

test-pypi: setup
	$(SUDO) $(BIN)/python -m tests.sets pypi

SUITE ?= bookworm trixie
test-debian: packages
	$(SUDO) $(PYTHON3) -m tests.sets $(SUITE)

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

setup: packages .venv/ready

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
		case $$p in etcd-server) echo etcd ;; postgresql | pgbouncer) echo $$p ;; esac; done); \
	[ -z "$$services" ] || $(SUDO) systemctl mask --quiet $$services; \
	$(SUDO) apt-get update -qq && \
	$(SUDO) env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	status=$$?; \
	[ -z "$$services" ] || { $(SUDO) systemctl unmask --quiet $$services; \
		$(SUDO) systemctl disable --quiet $$services; }; \
	exit $$status

.venv/ready: pyproject.toml | packages
	@echo "setting up the virtual environment .venv"
	$(PYTHON3) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 \
		--editable '.[dev]'
	touch $@
