"""The commands of the program ``detrex``: one module each, with ``build_parser`` and ``main``."""
