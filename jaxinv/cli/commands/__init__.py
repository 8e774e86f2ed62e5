"""The commands, one file each: options, followed by prepare, run and record."""
