"""What commands of the command line cost, first and second run."""
