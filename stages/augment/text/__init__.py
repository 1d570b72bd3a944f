"""Text: rows of a table become rows of token numbers, as long as the longest of their batch."""
