"""Our own speed, against a peer or a limit in the same run. `make perf`; nothing here is asserted."""
