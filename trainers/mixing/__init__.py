"""Mixing of pictures, and the trainers that learn from it: ClassMix and DACS (paper 004)."""
