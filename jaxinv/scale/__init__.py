"""Inversion of many samples: batches, lanes, streams, devices, hosts and jobs."""
