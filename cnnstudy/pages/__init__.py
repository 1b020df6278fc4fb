"""Self-contained HTML pages of what studies tell.

style            colours and sizes that figures and pages share
drawing          a figure as SVG that follows the page's theme, and as files
grouping         trials that differ only by seed: which of their curves are shown
curve_figures    learning curves
factor_figures   the gap by factor, importances, the data law
forest_figures   effects, interactions and confirmed candidates with their intervals
trial_figures    the Pareto front, classes, the confusion matrix
gallery          images that are wrong beside those that they resemble
confirmed        what fresh seeds said of the best trials
story            all that a study's page tells, as plain data
words            the numbers and sentences that no table holds
tables           cells of the page's tables
illustrations    which figures a story has
study_page       the page as HTML, and as files
comparison_page  the page of two studies side by side
"""
