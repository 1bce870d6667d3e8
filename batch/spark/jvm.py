"""Ends the JVM of a session at once, for a signal while it starts."""

import logging

import psutil

_KILL_S = 3.0


def kill_jvm() -> None:
    """Kill the child programs of this process: the JVM, which has no session yet, and the script that starts it.

    PySpark removes the folder in which a starting JVM writes its port, and a JVM that does not find it prints a
    traceback and never ends. Py4J logs the lost connection with a traceback too.
    """
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    children = psutil.Process().children(recursive=True)
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=_KILL_S)
