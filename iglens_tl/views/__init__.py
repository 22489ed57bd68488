"""What people look at: figures for notebooks, and the report, a page that needs no network."""
