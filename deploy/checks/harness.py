"""What the checks share: paths, running a program, durations, and counting what passed."""

import os
import re
import subprocess
import tomllib
import traceback
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent.parent
ROOT = DEPLOY.parent
PROGRAMS = Path(os.environ["HOOKLINE_BIN_DIR"])


class Failures:
    """Runs checks, says how each ended, and counts."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def run_all(self, module):
        """Every function of the module whose name begins with `check_`; its docstring is the promise."""
        for name, function in list(vars(module).items()):
            if name.startswith("check_"):
                self.run(f"{module.__name__}: {' '.join(function.__doc__.split())}", function)

    def run(self, name, function):
        try:
            function()
        except AssertionError as error:
            self.failed += 1
            print(f"FAILED  {name}\n        " + str(error).replace("\n", "\n        "), flush=True)
        except Exception:  # A check that cannot be done has failed too.
            self.failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
        else:
            self.passed += 1
            print(f"ok      {name}", flush=True)


def run(*command, env=None, cwd=ROOT):
    """Runs a program and returns what it says; it must succeed."""
    result = attempt(*command, env=env, cwd=cwd)
    words = " ".join(str(word) for word in command)
    assert result.returncode == 0, f"{words}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def attempt(*command, env=None, cwd=ROOT):
    """Runs a program, whatever comes of it."""
    environment = {**os.environ, **(env or {})}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, cwd=cwd)


def documents(path):
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def toml_of(path):
    return tomllib.loads(path.read_text())


def workspace_version():
    return toml_of(ROOT / "Cargo.toml")["workspace"]["package"]["version"]


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration):
    """A duration such as 15s or 1m30s in seconds."""
    parts = re.findall(r"(\d+)(ms|s|m|h|d)", duration)
    assert parts and "".join(n + unit for n, unit in parts) == duration, f"{duration} is not a duration"
    return sum(int(n) * UNITS[unit] for n, unit in parts)


def port(address):
    return int(address.rsplit(":", 1)[1])
