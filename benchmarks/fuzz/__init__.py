"""Damaged inputs by the thousand, each under a time and memory limit."""
