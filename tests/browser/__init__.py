"""The page of `morphax serve` in a browser (`make browser`), which needs Chromium."""
