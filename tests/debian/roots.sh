# Root file systems of Debian for tests, in layers: sourced by what mounts them.
#
#   base-SUITE     what both of the others stand on
#   tests-SUITE    over it: what yaim needs and what its tests need, as Debian has it
#   host-SUITE     over it: a host that boots with systemd, before yaim is installed on it
#
# Each is made once, below /var/cache, from packages that are kept there, too; and anew when how it is made
# has changed. Callers are root, in a mount namespace of their own. Nothing may write to a layer.

CACHE=${YAIM_TEST_CACHE:-/var/cache/yaim-tests}
umask 022
unset TMPDIR # there may be none of that name in a root file system

BASE=(iproute2 etcd-server etcd-client postgresql)
TESTS=(
    # what yaim needs
    python3 python3-cryptography python3-etcd3 python3-grpcio python3-protobuf python3-pyroute2
    python3-daemon python3-setproctitle python3-yaml python3-requests
    python3-psycopg # only for the checks postgres and pgbouncer
    # what its tests need
    python3-pytest python3-pytest-timeout python3-hypothesis faketime man-db openssl procps e2fsprogs
    python3-jsonschema python3-shtab python3-trustme zsh fish nftables
    pgbouncer patroni python3-etcd # which is how Patroni speaks to etcd
)
HOST=(systemd systemd-sysv dbus iputils-ping curl e2fsprogs apparmor nftables)
# What yaim's package depends on is not on a host, but lies in apt's cache: apt installs it without a
# network.
WANTED_BY_YAIM=(
    python3-cryptography python3-etcd3 python3-grpcio python3-protobuf python3-pyroute2 python3-daemon
    python3-setproctitle python3-yaml python3-requests python3-psycopg procps
)

# mmdebstrap's own if this machine has none
mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
    apt-get indextargets --format '$(REPO_URI)' "Release: $codename" \
        'Identifier: Packages' 'Component: main' 'Origin: Debian' 2>/dev/null | head -n 1
}

make_base() { # SUITE DIRECTORY
    local packages
    packages=$(IFS=, && echo "${BASE[*]}")
    # Nothing is flushed to the disk: if the machine fails, it is made anew.
    # shellcheck disable=SC2046
    mmdebstrap --mode=root --variant=minbase --format=directory --include="$packages" \
        --dpkgopt=force-unsafe-io --skip=cleanup/apt,essential/unlink,download/empty \
        --setup-hook='mkdir -p "$1/var/cache/apt/archives"' \
        --setup-hook="mount --bind '$CACHE/packages/$1' \"\$1/var/cache/apt/archives\"" \
        --customize-hook='umount "$1/var/cache/apt/archives"' \
        "$1" "$2" $(mirror)
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$2/etc/hosts"
    printf '#!/bin/sh\nexit 101\n' >"$2/usr/sbin/policy-rc.d" # no service starts
    chmod +x "$2/usr/sbin/policy-rc.d"
}

make_tests() { # SUITE DIRECTORY
    local site
    install_packages "$1" "$2" "${TESTS[@]}"
    # PYTHONPATH would not do in place of the .pth file: python -I, as the helper runs, ignores it.
    site=$2$(chroot "$2" python3 -c 'import site; print(site.getsitepackages()[0])')
    mkdir -p "$2/yaim" "$site"
    printf '/yaim\n/yaim/helper\n' >"$site/yaim.pth"
}

make_host() { # SUITE DIRECTORY
    install_packages "$1" "$2" "${HOST[@]}"
    mkdir -p "$2/var/cache/wanted/partial"
    install_packages "$1" "$2" --install-recommends --download-only \
        -o Dir::Cache::archives=/var/cache/wanted "${WANTED_BY_YAIM[@]}"
    mv "$2"/var/cache/wanted/*.deb "$2/var/cache/apt/archives"
    rm -r "$2/usr/sbin/policy-rc.d" "$2/var/cache/wanted"
    # Nobody is there to say yes.
    echo 'APT::Get::Assume-Yes "true";' >"$2/etc/apt/apt.conf.d/90tests"
    # Is made anew by each host that boots from it.
    : >"$2/etc/machine-id"
    chroot "$2" systemctl disable etcd.service postgresql.service
    chroot "$2" systemctl mask systemd-networkd.service systemd-resolved.service \
        apt-daily.timer apt-daily-upgrade.timer
    cat >"$2/etc/systemd/system/host-network.service" <<'UNIT'
[Unit]
Before=network.target network-online.target
DefaultDependencies=no
After=local-fs.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /etc/host-network
[Install]
WantedBy=multi-user.target network-online.target
UNIT
    chroot "$2" systemctl enable host-network.service
}

install_packages() { # SUITE DIRECTORY [OPTION ...] PACKAGE ...
    local root=$2
    mount --bind /proc "$root/proc"
    mount --bind "$CACHE/packages/$1" "$root/var/cache/apt/archives"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    chroot "$root" apt-get update # what stands below may be older than the last point release
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y --no-install-recommends "${@:3}"
    umount "$root/var/cache/apt/archives" "$root/proc"
}

# Prints where a layer is. Its name changes with how it, or what it stands on, is made.
layer() { # KIND SUITE
    local key parts=(BASE make_base)
    case $1 in
    tests) parts+=(TESTS make_tests install_packages) ;;
    host) parts+=(HOST WANTED_BY_YAIM make_host install_packages) ;;
    esac
    key=$(for each in "${parts[@]}"; do declare -p "$each" 2>/dev/null || declare -f "$each"; done |
        sha256sum | head -c 12)
    echo "$CACHE/$1-$2-$key"
}

# Sets $layers: directories for overlay's lowerdir=. File descriptor 9 is the lock: who makes one has it
# alone.
find_layers() { # KIND SUITE
    local base top
    base=$(layer base "$2") top=$(layer "$1" "$2")
    layers=$top:$base
    mkdir -p "$CACHE/packages/$2/partial"
    exec 9>"$CACHE/$2.lock"
    until flock --shared 9 && [ -d "$base" ] && [ -d "$top" ]; do
        flock --nonblock 9 || { echo "waiting for other tests that use $CACHE/*-$2-*" >&2 && flock 9; }
        # shellcheck disable=SC2064 # as it is now
        trap "tail -n 20 '$CACHE/$2.log' >&2" EXIT # shows why it failed
        [ -d "$base" ] || make_layer base "$2"
        [ -d "$top" ] || make_layer "$1" "$2" "$base"
        trap - EXIT
    done
}

make_layer() { # KIND SUITE [BASE]
    local partial="$CACHE/$1-$2.partial" work="$CACHE/$1-$2.work"
    echo "making $1-$2, a root file system of Debian, once: $(layer "$1" "$2")" >&2
    rm -rf --one-file-system "$partial" "$work" "$CACHE/$1-$2-"*
    # What stands on the base before is of no use any more.
    [ $# = 3 ] || rm -rf --one-file-system "$CACHE"/{tests,host}-"$2"-* "$CACHE/$2-"*
    mkdir -p "$partial" "$work/merged" "$work/work"
    if [ $# = 2 ]; then
        "make_$1" "$2" "$partial"
    else
        mount -t overlay overlay -o "lowerdir=$3,upperdir=$partial,workdir=$work/work" "$work/merged"
        "make_$1" "$2" "$work/merged"
        umount "$work/merged"
    fi >"$CACHE/$2.log" 2>&1
    chmod 755 "$partial"
    rm -rf --one-file-system "$work"
    mv "$partial" "$(layer "$1" "$2")"
}
