"""The command as users run it: what it prints, where, and its exit status."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread

import pytest

from tests.certificates import Certificates
from yaim import __version__
from yaim.config.config import KEYS, LOG_LEVELS

TIMEOUT_S = 60
EX_CANNOT_START = 1
EX_USAGE = 2
EX_UNREACHABLE = 69
EX_CONFIG = 78
SECRET = "geheim"
AS_ROOT = "yaim: warning: made as root: there is no user no-such-user (--user)\n"
NO_USER = "--user=no-such-user"
TCP_ADDRESS = "host:port, or [IPv6 address]:port, with a port from 1 to 65535"
GOOD = """\
dcs-clustername: yaim
interface: lo
checker-type: http
http-url: http://127.0.0.1:8008/
"""
AS_NOBODY = (
    *("setpriv", "--reuid", "65534", "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", "--"),
)
"""Not root, but able to read the program wherever it is."""
AS_POWERLESS_ROOT = (
    *("setpriv", "--bounding-set", "-dac_override,-dac_read_search"),
    *("--inh-caps", "-dac_override,-dac_read_search", "--"),
)
"""What makes a root for whom closed directories are closed."""
WITH_ITS_OWN_RUN = (
    *("unshare", "--mount", "--propagation", "private"),
    *("sh", "-c", 'mount --bind "$1" /run && shift && exec "$@"', "sh"),
)
"""And the directory that becomes /run."""


def yaim(
    directory: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("YAIM_")}
    return subprocess.run(
        (*through, sys.executable, "-m", "yaim", *arguments),
        cwd=directory,
        env={**clean, "COLUMNS": "100", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def shown(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """What `config show` has printed: key to value (if there is one) and origin."""
    assert (done.returncode, done.stderr) == (0, "")
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a good configuration in it."""
    (tmp_path / "yaim.yml").write_text(GOOD)
    return tmp_path


# --- config check and config show ----------------------------------------------------------------


def test_config_check_says_that_a_good_configuration_is_good(directory: Path) -> None:
    assert outcome(yaim(directory, "config", "check")) == (0, "the configuration is good\n", "")


def test_config_check_warns_of_an_interface_that_is_missing(directory: Path) -> None:
    done = yaim(directory, "config", "check", "--interface=eth99")
    assert done.returncode == 0
    assert "yaim: warning: --interface: interface: there is no eth99 on this host" in done.stderr


def test_config_check_tells_everything_that_is_wrong(directory: Path) -> None:
    (directory / "yaim.yml").write_text(f"{GOOD}ttl: 1\nintervall: 5\n")
    done = yaim(directory, "config", "check", "--netmask=99", environment={"YAIM_LABEL": "a b"})
    assert outcome(done) == (
        EX_CONFIG,
        "",
        "yaim: yaim.yml:5: ttl: got '1', expected a whole number from 3000 to 3600000\n"
        "yaim: yaim.yml:6: intervall: expected a known key (did you mean interval?)\n"
        "yaim: --netmask: netmask: got '99', expected a whole number from 8 to 32\n"
        "yaim: YAIM_LABEL: label: got 'a b', expected letters, digits, _ . -\n",
    )


def test_config_check_tells_where_it_has_looked_for_a_file(tmp_path: Path) -> None:
    done = yaim(tmp_path, "config", "check")
    where = [line.partition(": ")[2].rpartition(": is")[0] for line in done.stderr.splitlines()]
    assert (done.returncode, done.stdout) == (EX_CONFIG, "")
    assert where == [
        f"no /etc/yaim/yaim.yml or yaim.yml, and no --config: {key}"
        for key in ("dcs-clustername", "interface", "checker-type")
    ]


def test_a_password_file_is_utf_8_in_every_locale(directory: Path) -> None:
    """In some locales another password would be read."""
    (directory / "password").write_text("pä€", encoding="utf-8")
    flags = ("--etcd-user=root", "--etcd-password-file=password")
    no_utf_8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = yaim(directory, "config", "check", *flags, environment=no_utf_8)
    assert outcome(done) == (0, "the configuration is good\n", "")


def tls(certificates: Certificates) -> dict[str, str]:
    return {
        "YAIM_DCS_ENDPOINTS": "https://127.0.0.1:2379",
        "YAIM_ETCD_CA_FILE": str(certificates.ca),
        "YAIM_ETCD_CERT_FILE": str(certificates.leaf),
        "YAIM_ETCD_KEY_FILE": str(certificates.key),
    }


def test_config_check_warns_of_certificates_that_end_soon(
    directory: Path, certificates: Certificates
) -> None:
    done = yaim(directory, "config", "check", environment=tls(certificates))
    assert (done.returncode, done.stdout) == (0, "the configuration is good\n")
    starts = [line.partition(" (2")[0] for line in done.stderr.splitlines()]
    assert starts == [
        f"yaim: warning: etcd-ca-file {certificates.ca} (yaim test ca): expires in 1 day",
        f"yaim: warning: etcd-cert-file {certificates.leaf} (yaim test leaf): expires in 1 day",
    ]


def test_config_check_looks_into_the_tls_files(directory: Path, certificates: Certificates) -> None:
    (directory / "ca.pem").touch()
    (directory / "yaim.yml").write_text(f"{GOOD}etcd-ca-file: {directory}/ca.pem\n")
    other = str(certificates.stranger.with_suffix(".key"))
    environment = {**tls(certificates), "YAIM_ETCD_KEY_FILE": other}
    del environment["YAIM_ETCD_CA_FILE"]
    assert outcome(yaim(directory, "config", "check", environment=environment)) == (
        EX_CONFIG,
        "",
        f"yaim: yaim.yml:5: etcd-ca-file: got {directory}/ca.pem, expected certificates in PEM form"
        " (-----BEGIN CERTIFICATE-----), found none\n"
        f"yaim: YAIM_ETCD_KEY_FILE: etcd-key-file: got {other}, expected the key of the certificate"
        f" in etcd-cert-file {certificates.leaf}, found that of another (is one of the two just"
        " being replaced?)\n",
    )


def test_config_check_warns_of_a_variable_that_is_not_ours(directory: Path) -> None:
    done = yaim(directory, "config", "check", environment={"YAIM_INTERVALL": "5"})
    warning = "YAIM_INTERVALL: no such key (did you mean YAIM_INTERVAL?); ignored"
    assert outcome(done) == (0, "the configuration is good\n", f"yaim: warning: {warning}\n")


def test_config_show_names_origins_and_masks_secrets(directory: Path) -> None:
    done = yaim(
        directory,
        "config",
        "show",
        "--interval=500",
        f"--http-url=http://monitor:{SECRET}@127.0.0.1/",
        environment={"YAIM_ETCD_USER": "root", "YAIM_ETCD_PASSWORD": SECRET},
    )
    assert SECRET not in done.stdout
    found = shown(done)
    expected = {
        "dcs-clustername": ["yaim", "yaim.yml:1"],
        "interval": ["500", "--interval"],
        "etcd-user": ["root", "YAIM_ETCD_USER"],
        "etcd-password": ["********", "YAIM_ETCD_PASSWORD"],
        "http-url": ["http://monitor:********@127.0.0.1/", "--http-url"],
        "ttl": ["5000", "default"],
        "http-user": ["default"],
    }
    assert {name: found[name] for name in expected} == expected


def test_config_show_tells_the_defaults_where_there_is_no_file(tmp_path: Path) -> None:
    found = shown(yaim(tmp_path, "config", "show"))
    needed = ["needed,", "and", "not", "given"]
    keys = ("dcs-clustername", "interface", "checker-type", "ttl")
    assert [found[key] for key in keys] == [needed, needed, needed, ["5000", "default"]]


def test_config_show_for_programs_is_json(directory: Path) -> None:
    flags = ("--etcd-user=root", f"--etcd-password={SECRET}")
    told = json.loads(yaim(directory, "config", "show", "--json", *flags).stdout)
    keys = {each["key"]: (each["value"], each["origin"]) for each in told["keys"]}
    assert (told["schema"], keys["etcd-password"], keys["interface"]) == (
        "yaim.config/1",
        ("********", "--etcd-password"),
        ("lo", "yaim.yml:2"),
    )


def test_config_keys_tells_what_a_key_takes_and_when_it_counts(tmp_path: Path) -> None:
    assert outcome(yaim(tmp_path, "config", "keys", "ttl")) == (
        0,
        f"ttl\n    {KEYS['ttl'].help}\n    a whole number from 3000 to 3600000\n"
        "    default: 5000\n"
        "    flag --ttl, variable YAIM_TTL; a change counts after a stop and start\n",
        "",
    )


def test_config_keys_tells_every_key(tmp_path: Path) -> None:
    told = json.loads(yaim(tmp_path, "config", "keys", "--json").stdout)
    assert [each["key"] for each in told["keys"]] == list(KEYS)
    assert all(each["expected"] and each["help"] for each in told["keys"])


def test_config_keys_asks_which_key_was_meant(tmp_path: Path) -> None:
    expected = "yaim: there is no key intervall: did you mean interval?\n"
    assert outcome(yaim(tmp_path, "config", "keys", "intervall")) == (EX_USAGE, "", expected)


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--retry-num=2", "--retry_num=2"])
def test_dashes_and_underscores_in_options_are_the_same(flag: str, directory: Path) -> None:
    assert shown(yaim(directory, "config", "show", flag))["retry-num"] == ["2", "--retry-num"]


def test_underscores_in_an_options_value_stay(directory: Path) -> None:
    found = shown(yaim(directory, "config", "show", "--dcs_clustername=a_b"))
    assert found["dcs-clustername"] == ["a_b", "--dcs-clustername"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config={}", "config", "show"),
        ("--config", "{}", "config", "show"),
        ("config", "show", "--config={}"),
        ("config", "show", "--config", "{}"),
    ],
)
def test_the_file_is_named_before_or_after_the_command(
    arguments: tuple[str, ...], directory: Path
) -> None:
    file = directory / "other.yml"
    file.write_text(f"{GOOD}ttl: 7000\n")
    done = yaim(directory, *(each.format(file) for each in arguments))
    assert shown(done)["ttl"] == ["7000", f"{file}:5"]


def test_a_key_is_given_before_or_after_the_command(directory: Path) -> None:
    done = yaim(directory, "--ttl=7000", "--netmask=24", "config", "show", "--netmask=25")
    found = shown(done)
    assert (found["ttl"], found["netmask"]) == (["7000", "--ttl"], ["25", "--netmask"])


def test_the_file_is_named_in_the_environment_unless_it_is_on_the_command_line(
    directory: Path,
) -> None:
    for name in ("one", "two"):
        (directory / f"{name}.yml").write_text(f"{GOOD}etcd-user: {name}\netcd-password: x\n")
    environment = {"YAIM_CONFIG": "one.yml"}
    from_environment = yaim(directory, "config", "show", environment=environment)
    from_flag = yaim(directory, "config", "show", "--config=two.yml", environment=environment)
    assert [shown(done)["etcd-user"] for done in (from_environment, from_flag)] == [
        ["one", "one.yml:5"],
        ["two", "two.yml:5"],
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--intervall=5",),
        ("run", "--intervall=5"),
        ("run", "more"),
        ("nonsense",),
        ("config",),
        ("status", "--yaml"),
        ("--log=Debug",),
        ("run", "--log=Debug"),
        ("config", "check", "--log=Debug"),
        ("status", "--js"),
        ("supervise", "--daem"),
        ("lab", "run", "--node=2"),
    ],
    ids=" ".join,
)
def test_an_option_or_command_that_is_not_known_is_refused(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """It runs in an empty directory, so that nothing is started should it be taken."""
    done = yaim(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (EX_USAGE, "")
    assert done.stderr.splitlines()[-1].startswith("yaim")


def test_the_version_is_told(tmp_path: Path) -> None:
    assert outcome(yaim(tmp_path, "--version")) == (0, f"yaim {__version__}\n", "")


@pytest.mark.parametrize(
    "command", [(), ("run",), ("supervise",), ("status",), ("config", "show"), ("lab", "run")]
)
def test_every_command_has_help(command: tuple[str, ...], tmp_path: Path) -> None:
    done = yaim(tmp_path, *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(("usage: yaim", *command)))


# --- run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("run",), ()])
def test_run_with_a_wrong_file_does_not_start(arguments: tuple[str, ...], directory: Path) -> None:
    (directory / "yaim.yml").write_text(f"{GOOD}ttl: soon\n")
    assert outcome(yaim(directory, *arguments)) == (
        EX_CONFIG,
        "",
        "yaim: yaim.yml:5: ttl: got 'soon', expected a whole number from 3000 to 3600000\n",
    )


def test_run_with_a_file_that_is_not_there_does_not_start(directory: Path) -> None:
    expected = "expected to be able to read it (No such file or directory)"
    assert outcome(yaim(directory, "run", "--config=nowhere.yml")) == (
        EX_CONFIG,
        "",
        f"yaim: nowhere.yml: the file: {expected}\n",
    )


def test_the_current_directory_may_be_closed_to_us(directory: Path) -> None:
    """`sudo -u yaim yaim config check` in root's home."""
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, 65534, 65534)
    config = directory / "yaim.yml"
    flags = [f"--{line.replace(': ', '=')}" for line in config.read_text().splitlines()]
    done = yaim(closed, "config", "check", *flags, through=AS_POWERLESS_ROOT)
    assert outcome(done) == (0, "the configuration is good\n", "")


# --- check ---------------------------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[int]:
    """The port of a service that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def checks_file(directory: Path, service: int, **more: str) -> None:
    """Two checks, of which the second fails."""
    keys = "".join(f"{key}: {value}\n" for key, value in more.items())
    (directory / "yaim.yml").write_text(
        f"""\
checks:
  - name: up
    type: tcp
    tcp-address: 127.0.0.1:{service}
  - name: down
    type: tcp
    tcp-address: 127.0.0.1:{closed_port()}
    retry-num: 1
    retry-after: 10
{keys}"""
    )


def test_check_prints_what_each_check_found_and_how_long_it_took(
    tmp_path: Path, service: int
) -> None:
    checks_file(tmp_path, service)
    done = yaim(tmp_path, "check", NO_USER)
    header, up, down, _, verdict = (line.split(None, 4) for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (1, AS_ROOT)
    assert verdict[:3] == ["The", "node", "is"] and verdict[3] == "unhealthy:"
    assert header == ["CHECK", "TYPE", "RESULT", "TOOK", "TRIES  FOUND"]
    assert up[:3] == ["up", "tcp", "healthy"]
    assert down[:4] == ["down", "tcp", "no", "answer"]
    assert re.fullmatch(r"\d+ ms +2 +127\.0\.0\.1:\d+: Connection refused", down[4])


def test_the_exit_status_of_check_is_that_of_the_node(tmp_path: Path, service: int) -> None:
    checks_file(tmp_path, service)
    assert yaim(tmp_path, "check").returncode == 1
    assert yaim(tmp_path, "check", "--healthy-when=any").returncode == 0


def test_check_of_one_name_makes_only_that_check(tmp_path: Path, service: int) -> None:
    checks_file(tmp_path, service)
    done = yaim(tmp_path, "check", "up")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    done = yaim(tmp_path, "check", "down")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)


def test_check_for_programs_is_json(tmp_path: Path, service: int) -> None:
    checks_file(tmp_path, service)
    began = time.monotonic()
    done = yaim(tmp_path, "check", "--json", NO_USER)
    ended = time.monotonic()
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr, told["healthy"]) == (1, AS_ROOT, False)
    assert [(c["name"], c["type"], c["result"], c["tries"]) for c in told["checks"]] == [
        ("up", "tcp", "healthy", 1),
        ("down", "tcp", "no answer", 2),
    ]
    assert all(0 < each["took_s"] < ended - began for each in told["checks"])


def test_check_tells_which_checks_there_are(tmp_path: Path, service: int) -> None:
    checks_file(tmp_path, service)
    assert outcome(yaim(tmp_path, "check", "sideways")) == (
        EX_USAGE,
        "",
        "yaim: there is no check 'sideways': there are up, down\n",
    )


def test_root_makes_the_checks_as_the_coordinators_user(tmp_path: Path) -> None:
    """It made them as root and warned of it; doctor made them as that user."""
    command = '--shell-command=test "$(id -un)" = daemon'
    done = yaim(tmp_path, "check", "--checker-type=shell", command, "--user=daemon")
    assert (done.returncode, done.stderr) == (0, "")
    done = yaim(tmp_path, "check", "--checker-type=shell", command, "--user=root")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.11", "is not on this host (an address of the pool, and another node holds it?)"),
        ("127.0.0.1", ""),
        ("db1", ""),
    ],
)
def test_config_check_points_out_a_check_of_another_host(
    host: str, why: str, directory: Path
) -> None:
    done = yaim(directory, "config", "check", f"--http-url=http://{host}/")
    where = "yaim: warning: --http-url: check http"
    told = f"{where}: asks {host}, which {why}: a check is to be of this host's own service\n"
    assert outcome(done) == (0, "the configuration is good\n", told if why else "")


def test_check_needs_the_keys_of_the_checks_only(tmp_path: Path) -> None:
    address = f"--tcp-address=127.0.0.1:{closed_port()}"
    quick = "--retry-num=0"
    done = yaim(
        tmp_path, "check", "--checker-type=tcp", address, quick, "--dcs-endpoints=wrong", NO_USER
    )
    assert (done.returncode, done.stderr) == (1, AS_ROOT)


def test_check_tells_what_is_wrong_with_the_configuration(tmp_path: Path) -> None:
    assert outcome(yaim(tmp_path, "check", "--checker-type=tcp", "--tcp-address=here")) == (
        EX_CONFIG,
        "",
        f"yaim: --tcp-address: tcp-address: got 'here', expected {TCP_ADDRESS}\n",
    )


# --- status --------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_status_says_that_etcd_cannot_be_reached(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    done = yaim(tmp_path, "status", "--dcs-clustername=yaim", f"--dcs-endpoints={endpoint}")
    assert (done.returncode, done.stdout) == (EX_UNREACHABLE, "")
    assert done.stderr.startswith(f"yaim: cannot read etcd: {endpoint}: ")
    assert "127.0.0.1 refuses the connection: does etcd run there" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status_for_programs_is_json_also_where_etcd_cannot_be_reached(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    flags = ("--dcs-clustername=yaim", f"--dcs-endpoints={endpoint}")
    done = yaim(tmp_path, "status", "--json", *flags)
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (EX_UNREACHABLE, "")
    assert (told["schema"], told["condition"]) == ("yaim.status/1", "unreachable")
    assert told["addresses"] is told["nodes"] is told["revision"] is None
    assert told["error"].startswith(f"{endpoint}: ")


def test_status_needs_the_name_of_the_cluster_only(tmp_path: Path) -> None:
    assert outcome(yaim(tmp_path, "status")) == (
        EX_CONFIG,
        "",
        "yaim: no /etc/yaim/yaim.yml or yaim.yml, and no --config: dcs-clustername: is missing,"
        " expected the cluster's name, the same on all its nodes; second part of the keys'"
        " prefix\n",
    )


def test_status_does_not_look_at_the_keys_of_the_node(directory: Path) -> None:
    """Not everybody who may read the configuration may read the key."""
    endpoint = f"http://127.0.0.1:{closed_port()}"
    more = f"http-key-file: /nowhere/key\ndcs-endpoints: {endpoint}\n"
    (directory / "yaim.yml").write_text(f"{GOOD}{more}")
    assert yaim(directory, "config", "check").returncode == EX_CONFIG
    done = yaim(directory, "status")
    assert (done.returncode, done.stdout) == (EX_UNREACHABLE, "")
    assert done.stderr.startswith(f"yaim: cannot read etcd: {endpoint}: ")


def test_what_crashes_at_the_end_of_python_does_not_spoil_the_status(directory: Path) -> None:
    """Threads of gRPC's do so now and then."""
    (directory / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.abort)\n")
    path = os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])
    done = yaim(directory, "config", "check", environment={"PYTHONPATH": path})
    assert outcome(done) == (0, "the configuration is good\n", "")


@pytest.mark.parametrize("command", ["config keys", "config check", "doctor", "--help"])
def test_when_nobody_reads_its_output_a_command_ends_quietly(command: str, directory: Path) -> None:
    """`yaim doctor | head` had a traceback below it."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as nobody:
        done = subprocess.run(
            (sys.executable, "-m", "yaim", *command.split()),
            cwd=directory,
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_an_output_that_cannot_be_written_is_told(directory: Path) -> None:
    through = ("sh", "-c", 'exec "$0" "$@" > /dev/full')
    done = yaim(directory, "config", "check", through=through)
    complaint = "yaim: cannot write the output: No space left on device\n"
    assert outcome(done) == (os.EX_IOERR, "", complaint)


# --- lab -----------------------------------------------------------------------------------------


def lab_exec(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`yaim lab exec` where every node of the lab is this very process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / "yaim-lab.sock"))
        listener.listen()
        listener.settimeout(TIMEOUT_S)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.send(json.dumps({"text": f"{os.getpid()} {directory}/n1"}).encode())

        lab = Thread(target=answer)
        lab.start()
        through = (*WITH_ITS_OWN_RUN, str(directory))
        done = yaim(directory, "lab", "exec", *arguments, through=through)
        lab.join()
    return done


def test_lab_exec_passes_on_the_programs_options_as_they_are(tmp_path: Path) -> None:
    options = ("--some_opt", "--a_b=c_d", "-x_y", "--", "--e_f", "exec", "--g_h")
    done = lab_exec(tmp_path, "n1", "printf", "%s\\n", *options)
    assert outcome(done) == (0, "".join(f"{each}\n" for each in options), "")


def test_lab_exec_runs_yaim_with_the_nodes_configuration(tmp_path: Path) -> None:
    """ "nsenter: failed to execute yaim: No such file or directory"."""
    program = tmp_path / "n1" / "bin" / "yaim"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$1 by $YAIM_CONFIG"\n')
    program.chmod(0o755)
    expected = f"status by {tmp_path}/n1/yaim.yml\n"
    assert outcome(lab_exec(tmp_path, "n1", "yaim", "status")) == (0, expected, "")


def test_a_value_may_be_exec(directory: Path) -> None:
    flags = ("--dcs-clustername", "exec", "--retry_num=2")
    found = shown(yaim(directory, "config", "show", *flags))
    assert (found["dcs-clustername"][0], found["retry-num"][0]) == ("exec", "2")


# --- supervise -----------------------------------------------------------------------------------


def test_supervise_wants_to_be_root(directory: Path) -> None:
    assert outcome(yaim(directory, "supervise", through=AS_NOBODY)) == (
        EX_CANNOT_START,
        "",
        "yaim: must be run as root, to start the helper\n",
    )


def test_supervise_wants_a_user_that_exists(directory: Path) -> None:
    socket_ = directory / "helper.sock"
    done = yaim(directory, "supervise", "--user=no-such-user", f"--helper-socket={socket_}")
    assert outcome(done) == (
        EX_CANNOT_START,
        "",
        "yaim: there is no user 'no-such-user' to run the coordinator as: create it"
        " (adduser --system --group no-such-user) or name another with --user\n",
    )
    assert not socket_.exists()


@pytest.mark.parametrize("level", LOG_LEVELS)
def test_every_log_level_can_be_logged_at(level: str, directory: Path) -> None:
    done = yaim(directory, "supervise", "--user=no-such-user", f"--log-level={level}")
    assert (done.returncode, done.stdout) == (EX_CANNOT_START, "")
    assert done.stderr.startswith("yaim: there is no user 'no-such-user'")


def test_supervise_with_a_wrong_file_does_not_start(directory: Path) -> None:
    (directory / "yaim.yml").write_text("")
    done = yaim(directory, "supervise", "--user=no-such-user")
    assert (done.returncode, done.stdout) == (EX_CONFIG, "")
    assert len(done.stderr.splitlines()) == 3
