"""One folder for each published system; :mod:`ovparts_lib.systems.registry` finds them."""
