"""The miniature: a small drawn world in the layout of Pascal-Part-116."""
