"""Self-contained HTML pages: a study's report, and the comparison of two studies.

Comes in: recorded studies with their analysis. Goes out: an HTML page, and its figures and tables as files.

content          the page's numbers, sentences and tables
svg              the style of figures, and figures as SVG that follows the page's theme
curve_panels     trials that differ only by seed: which of their curves are shown
figures          learning curves, effects, variance shares, the data law, classes, the Pareto front
report_data      all that a study's page tells, as plain data
study_page       the page as HTML and as files, with its illustrations
comparison_page  the page of two studies side by side

May import: every room above `results`.
"""
