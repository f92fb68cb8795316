"""How the native module is built: for setup.py, for the tests and for the tools; not installed with the package."""
