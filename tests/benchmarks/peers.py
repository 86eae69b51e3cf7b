"""The releases that prm is compared with, each in a folder of its own.

They need nothing that prm does not need already, so they are installed without dependencies, and a
side puts the folder of its release first on the import path of its process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

RELEASES = {"trl-1.16": "trl==1.16.0", "trl-1.13": "trl==1.13.0"}
"""Peer to what pip calls it. 1.13 is the last release of TRL that has a `PRMTrainer`."""


def install(peers: Iterable[str], root: Path) -> dict[str, Path | str]:
    """Install releases that are not there yet; return the folder of each, or why it has none."""
    return {peer: _install(RELEASES[peer], root / peer) for peer in sorted(set(peers))}


def _install(requirement: str, folder: Path) -> Path | str:
    name, _, number = requirement.partition("==")
    if (folder / f"{name}-{number}.dist-info").is_dir():
        return folder
    words = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), requirement)
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if run.returncode == 0:
        return folder
    lines = run.stderr.strip().splitlines()
    return f"{requirement} cannot be installed: {lines[-1] if lines else run.returncode}"
