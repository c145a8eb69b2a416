"""Projects: detectors composed of detrex's modules."""
