"""Which heads and tokens the embedded model's answers come from, checked by ablation."""
