"""Laws of components: each is checked on every public component of models/."""
