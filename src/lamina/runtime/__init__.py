"""Processes in a root filesystem of their own: what they may do and use, and who looks after them."""
