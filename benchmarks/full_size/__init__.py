"""Compile times and memory of programs of full-size models, by shapes only."""
