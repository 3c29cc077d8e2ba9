"""What would run and why: steps, their keys, and the check whether they are up to date."""
