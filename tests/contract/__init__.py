"""What code may expect of the host: the subset (``detectron2_lite``) and the full detectron2 pass the same tests."""
