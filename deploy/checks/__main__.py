"""Runs every check of deploy/ and closes with the line `N passed, M failed`. Called by tests/run, whose
suite `deploy` this is: it has the tools ready and names them in the environment. Each module of this directory checks
one kind of file."""

import sys

import compose
import configs
import dockerfile
import kubernetes
import prometheus
from harness import Failures


def main():
    failures = Failures()
    for module in (configs, dockerfile, compose, kubernetes, prometheus):
        failures.run_all(module)
    if "--build" in sys.argv[1:]:
        failures.run("dockerfile: the build works, and needs no library that the image lacks", dockerfile.build)
    print(f"{failures.passed} passed, {failures.failed} failed")
    return 1 if failures.failed else 0


sys.exit(main())
