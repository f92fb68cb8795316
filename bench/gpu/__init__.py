"""One check of everything that needs a GPU, by stages with time limits: `bench/gpu_check.sh`, `python -m bench.gpu`."""
