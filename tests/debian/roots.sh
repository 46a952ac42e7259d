# Root file systems of Debian for tests: sourced by what says how one is made, in a function make_root NAME
# DIRECTORY and an array PACKAGES. Made once, below /var/cache, and anew when that has changed.

CACHE=${YAIM_TEST_CACHE:-/var/cache/yaim-tests}

# debootstrap's own if this machine has none
mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
    apt-get indextargets --format '$(REPO_URI)' "Release: $codename" \
        'Identifier: Packages' 'Component: main' 'Origin: Debian' 2>/dev/null | head -n 1
}

# With its lists of packages.
bootstrap() { # SUITE DIRECTORY
    # shellcheck disable=SC2046
    debootstrap --variant=minbase "$1" "$2" $(mirror)
    printf '#!/bin/sh\nexit 101\n' >"$2/usr/sbin/policy-rc.d" # no service starts
    chmod +x "$2/usr/sbin/policy-rc.d"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$2/etc/hosts"
    in_root "$2" apt-get update
}

in_root() { # DIRECTORY COMMAND
    DEBIAN_FRONTEND=noninteractive chroot "$@"
}

key() { # NAME
    { echo "$1 ${PACKAGES[*]}" && declare -f make_root bootstrap; } | sha256sum | head -c 12
}

# Sets $root. File descriptor 9 is the lock: who makes one has it alone.
find_root() { # NAME
    local partial="$CACHE/$1.partial"
    root="$CACHE/$1-$(key "$1")"
    mkdir -p "$CACHE"
    exec 9>"$CACHE/$1.lock"
    until flock --shared 9 && [ -d "$root" ]; do
        flock --exclusive 9
        [ -d "$root" ] && continue
        rm -rf --one-file-system "$CACHE/$1"-* "$partial"
        echo "making a root file system of $1, once: $root" >&2
        trap "tail -n 20 '$CACHE/$1.log' >&2" EXIT # shows why it failed
        make_root "$1" "$partial" >"$CACHE/$1.log" 2>&1
        trap - EXIT
        mv "$partial" "$root"
    done
}
