"""Many samples: batches, lanes, streams, devices, hosts and jobs."""
