"""One check of everything that needs a GPU, by stages with time limits: `tools/gpu_check.sh`."""
