"""Find images and labels, split and check them: a folder or a table becomes one checked ImageTable."""
