"""Components as a stranger writes them: sound ones, and ones with a fault that a law finds."""
