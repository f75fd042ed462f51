"""Studies: the catalogue of components, checks of a component, the coordinate check."""
