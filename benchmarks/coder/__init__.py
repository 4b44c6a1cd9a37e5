"""Coders side by side: `measure` runs them on `sets` through `peers`, `report` says how it went."""
