"""The tables and figures of the three papers, each as one command."""
