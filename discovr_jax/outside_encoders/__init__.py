"""Encoders of others, scored on the same videos: their preprocessing as data, and their own code and weights to run."""
