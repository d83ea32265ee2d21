"""Features of videos: where they come from and where they are stored."""
