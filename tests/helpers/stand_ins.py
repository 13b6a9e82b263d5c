"""Do to a folder what the commands of `docs/team-server.md` do to a machine.

`python stand_ins.py <command> <arguments>`; the folder is `$TEAM_ROOT`.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(os.environ.get("TEAM_ROOT", "/nowhere"))
UNIT = ROOT / "etc/systemd/system/mlflow.service"
PID, LOG = ROOT / "mlflow.pid", ROOT / "mlflow.log"


def sudo(*command: str) -> None:
    """Run the command, as the role of PostgreSQL that the other user would have."""
    if command[0] == "-u":
        os.environ["PGUSER"] = command[1]
        command = command[2:]
    os.execvp(command[0], command)


def apt_get(*arguments: str) -> None:
    """Do nothing: the test is skipped unless the packages are installed."""
    assert arguments == ("install", "-y", "postgresql", "python3-venv")


def adduser(*options: str) -> None:
    """Make the home folder of the new user."""
    Path(options[options.index("--home") + 1]).mkdir(parents=True)


def python3(*arguments: str) -> None:
    """Link `-m venv <folder>` to this environment, which holds the same packages."""
    assert arguments[:2] == ("-m", "venv")
    folder = Path(arguments[2])
    folder.parent.mkdir(parents=True)
    folder.symlink_to(sys.prefix)


def systemctl(action: str, *options: str) -> None:
    """Start or stop this one unit, as systemd does."""
    if action == "stop":
        stop()
    elif action == "start" or "--now" in options:
        start()


def start() -> None:
    if PID.exists() and is_alive(int(PID.read_text(encoding="utf-8"))):
        return
    text = UNIT.read_text(encoding="utf-8").replace("\\\n", "")
    unit = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    name, _, value = unit["Environment"].partition("=")
    with open(LOG, "a", encoding="utf-8") as log:
        server = subprocess.Popen(
            shlex.split(unit["ExecStart"]),
            cwd=unit["WorkingDirectory"],
            env=os.environ | {"PGUSER": unit["User"], name: value},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    PID.write_text(str(server.pid), encoding="utf-8")


def stop() -> None:
    if PID.exists():
        group = int(PID.read_text(encoding="utf-8"))
        while is_alive(group):
            os.killpg(group, signal.SIGTERM)
            time.sleep(0.2)
        PID.unlink()


def is_alive(group: int) -> bool:
    """Whether a process of the group runs; one that has ended may wait for its parent to notice."""
    for process in psutil.process_iter(["pid", "status"]):
        try:
            is_in_it = os.getpgid(process.info["pid"]) == group
        except ProcessLookupError:
            continue
        if is_in_it and process.info["status"] != psutil.STATUS_ZOMBIE:
            return True
    return False


COMMANDS = {
    "sudo": sudo,
    "apt-get": apt_get,
    "adduser": adduser,
    "python3": python3,
    "systemctl": systemctl,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
