"""Learning rates: schedules, the finder, and what it suggests."""
