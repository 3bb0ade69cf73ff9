"""Builds: one Dockerfile and one context become an image, step by step."""
