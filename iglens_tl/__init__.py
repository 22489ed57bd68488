"""IG-Lens for TransformerLens: between which two layers was a token's probability produced?

The public names stand in `__init__.pyi`, for type checkers and for this module alike. They are
imported when they are first used, so that `import iglens_tl` costs nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
