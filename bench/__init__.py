"""The benchmark command of fused_rnn: named problems against torch.nn, real workloads, and a report."""
