"""Random calls of every class with all options in combination, against float64: `python -m tools.fuzz`."""
