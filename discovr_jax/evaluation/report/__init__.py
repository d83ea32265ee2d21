"""The report of a run, as one HTML page, and the table on the terminal."""
