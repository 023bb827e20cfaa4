"""The command line: thin commands, one file each, registered in ``sealtune.cli.main``."""
