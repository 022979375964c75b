"""Stored rows, and the pages made of them."""
