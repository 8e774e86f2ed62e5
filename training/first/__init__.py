"""The data of the first ``emoji64``: the published tables were made with it."""
