"""Evaluation: confusion matrices counted once, read under any protocol, and the tables made from them."""
