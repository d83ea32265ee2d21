"""What a run writes and reads back: its folder, checkpoints, logged metrics, and the watch on its steps."""
