"""The commands of the program ``detrex``: one module each, with ``build_parser`` and ``main``."""

import detrex.compat  # noqa: F401 - lets configs of the original detrex load
