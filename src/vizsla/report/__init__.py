"""A finished run in, one offline HTML page out."""
