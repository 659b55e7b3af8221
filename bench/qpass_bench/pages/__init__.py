"""Reports as tables, plots and pages."""
