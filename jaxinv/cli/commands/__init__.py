"""The commands, one file each: options, then prepare, run and record."""
