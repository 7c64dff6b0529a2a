"""Results to tables and pages: comparison, fusion, tables, literature, runs side by side, the run's
page.
"""
