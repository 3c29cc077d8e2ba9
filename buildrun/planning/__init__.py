"""What would run and why: steps, their keys, and the check whether they are up to date.

Its face: `context`, `graph`, `model`, `plan_cache`, `progress`, `project_loader`, `quick_check`,
`result_publisher`, `state`, `step_history`, `suggest`, `uptodate`; the other modules are its own.
"""
