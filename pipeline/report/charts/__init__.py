"""Charts: small functions that draw SVG, one file a kind."""
