"""Self-contained HTML pages: a study's report, the comparison of two studies, and a data set.

Comes in: recorded studies with their analysis; a data set that was examined. Goes out: an HTML page, and its figures
and tables as files.

report_data      everything that a study's page shows, as plain data
content          the page's other sentences, numbers and tables; those on effects and the champion: analysis.*_text
curve_panels     which learning curves are shown, and together with which others
trial_figures    learning curves, the Pareto front, classes
effect_figures   the gap by level, variance shares, the gap by data size, effects, candidates
svg              the style of figures, and figures as SVG that follows the page's theme
rendering        renders the templates as self-contained pages
study_page       the page as HTML and as files, with its illustrations
comparison_page  the page of two studies side by side
data_summary     what is in a data set, as text and JSON
data_page        the page of a data set, with contact sheets

May import: every room above `results`.
"""
