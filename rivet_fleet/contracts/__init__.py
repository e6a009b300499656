"""Frozen values and pure functions shared by every layer. Standard library only; a leaf."""
