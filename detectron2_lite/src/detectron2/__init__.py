"""A maintained subset of detectron2: same import name, same formats, pure Python.

``detectron2.__lite__`` tells this distribution from the full library, whose module has no such attribute; both call
themselves 0.6.
"""

from ._subset import VERSION, explain_absent_names, missing

__version__ = VERSION
__lite__ = True
__getattr__ = missing(__name__)
explain_absent_names()
