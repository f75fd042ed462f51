"""Output of a run for people: the console, cautions, report.html."""
