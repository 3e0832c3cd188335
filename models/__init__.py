"""Networks, and output spaces: how logits relate to label spaces. Imports `data`, never a trainer."""
