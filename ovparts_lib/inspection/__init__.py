"""Inspection: pictures that show what a system did. Every function returns a matplotlib Figure."""
