"""The process: noise schedules, time grids, denoisers; no method."""
