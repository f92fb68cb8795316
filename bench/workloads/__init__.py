"""Real workloads, each of which runs the same training with torch.nn and with fused_rnn."""
