"""Laws of the source tree: direction of imports, names, sizes, declared attributes, each a function of a folder."""
