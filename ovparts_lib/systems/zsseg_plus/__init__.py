"""ZSSeg+."""
