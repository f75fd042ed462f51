"""The laws as functions of a component: each takes one component and raises `BrokenLawError` unless it holds."""
