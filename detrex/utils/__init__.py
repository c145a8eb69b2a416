"""What every room may import: files that are safe to read, text that is safe to show."""
