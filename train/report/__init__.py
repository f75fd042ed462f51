"""What a run shows: the console, cautions, report.html."""
