"""What a project declares: its files read, checked, and every finding with its place.

Its face: `codec`, `diagnostics`, `discover`, `fix`, `locate`, `model`, `places`, `producers`,
`quoting`, `read`, `report`, `rewrite`, `rules.backends`, `rules.dependencies`,
`rules.entry_points`, `rules.environments`, `rules.inputs`, `rules.values`, `schemas`,
`yaml_loader`; the other modules are its own.
"""
