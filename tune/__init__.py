"""Searches with Ray Tune. Empty until the first search is built; it holds its place in the order of imports."""
