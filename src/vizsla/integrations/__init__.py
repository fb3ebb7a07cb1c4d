"""Predictors inside other systems, one module for each; a module needs the system's package only when it is called."""
