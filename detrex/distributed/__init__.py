"""Processes of a job: launching, signals, sharding and the watchdog."""
