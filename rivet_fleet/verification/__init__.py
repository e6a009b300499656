"""Drivers over the same seams that check and clean what is stored."""
