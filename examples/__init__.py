"""What the layers are for: each module is a program of its own, `python examples/NAME.py --help`."""
