"""Label spaces, dataset adapters, shards, mixtures and transforms. Imports numpy and torch, never a network or a trainer."""
