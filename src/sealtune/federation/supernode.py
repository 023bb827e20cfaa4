"""``flower-supernode``, with shorter waits: ``python -m sealtune.federation.supernode ARGUMENT...``

Trust domain: network engine (untrusted), on the data owner's side.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from sealtune.federation.haste import hasten_supernode


def main() -> None:
    """Run the command that Flower installs under this name."""
    (command,) = entry_points(group="console_scripts", name="flower-supernode")
    start = command.load()
    hasten_supernode()
    start()


if __name__ == "__main__":
    main()
