"""Models, capabilities, benchmarks and datasets: what is measured, and on what."""
