"""From a run folder to one self-contained HTML file and its JSON twin."""
