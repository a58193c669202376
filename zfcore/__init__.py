"""The thin package behind the executable companion to Zeiler & Fergus (2013).

Each module is one room: :mod:`zfcore.model`, :mod:`zfcore.data`, :mod:`zfcore.train`,
:mod:`zfcore.trace`, :mod:`zfcore.deconvnet`, and so on. Nothing is imported here, so that
``import zfcore`` costs nothing and has no side effect.
"""

__version__ = "0.1.0"
