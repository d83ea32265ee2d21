"""The training method: masks, schedules, the optimizer, the train step, and what a config means."""
