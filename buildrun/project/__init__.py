"""What a project declares: its files read, checked, and every finding with its place."""
