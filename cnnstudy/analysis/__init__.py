"""Statistics on recorded trials: leaderboard, effects, champion, comparison.

Comes in: RecordedRuns with their metric histories. Goes out: tables, estimates with intervals, and the sentences that
state them. Nothing here reads MLflow or a file.

leaderboard       one row a trial; the Pareto front
class_metrics     precision and recall of each class
trial_plots       learning curves and confusion matrix of a trial
observations      trials on an equal basis: equal epochs, updates or train loss
contrasts         levels of a factor compared by matched pairs within a seed
regression        the same by least squares, where no two trials match
intervals         intervals over few seeds, and corrections for many comparisons
effects           which factor causes how many points
data_law          the gap against the number of images
importance        the share of variance that each factor explains
causes            all of that, network by network
effects_text      the answer in words
confirmation      the best candidates with fresh seeds, how they stand, and the record of it
confirmation_text the champion in words
comparison        two studies side by side: settings, outcomes, champions
comparison_text   the comparison in words

May import: errors, names, records, system, data, config, training.verdict, tracking.recorded.
"""
