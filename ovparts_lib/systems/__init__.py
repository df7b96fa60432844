"""One folder for each published system; :mod:`ovparts_lib.systems.registry` finds them.

Folders of systems elsewhere are named in the environment variable ``OVPARTS_SYSTEMS``, separated as in ``PATH``.
"""

import os

__path__ += [folder for folder in os.environ.get("OVPARTS_SYSTEMS", "").split(os.pathsep) if folder]
