"""Pictures of data sets, results and training curves."""
