"""Models under one interface: `fit`, `predict`, `state`; see `interface` for it and `catalogue` for their names."""
