"""What watches a training: log, alarms, curves, live line, evaluations, watchdog."""
