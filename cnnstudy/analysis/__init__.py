"""Statistics on recorded trials: leaderboard, effects, champion, comparison of studies.

Comes in: RecordedRuns with their metric histories. Goes out: tables, estimates with intervals, and the sentences that
state them. Nothing here reads MLflow; files are written only by leaderboard and trial_plots.

leaderboard       one row per trial; the Pareto front
class_metrics     precision and recall of each class
trial_plots       learning curves and confusion matrix of a trial
curves            a trial's metrics at a train loss or number of updates between two epochs
observations      outcomes of the trials at equal epochs, updates or train loss; levels of tuned factors
contrasts         levels of a factor compared by matched pairs within a seed
regression        the same by least squares, where trials do not match
intervals         intervals over few seeds, and corrections for multiple comparisons
resolution        how finely an outcome is measured
noise             whether trials at some levels are noisier than at others
aliases           which interactions a design cannot separate from a main effect
missing           what missing trials could change
repeats           how probable it is that a repeat gives the same answer
estimation        the estimates of a design's contrasts, by pairs or least squares
effects           the effect of each factor on each outcome
frames            checks of tables that users give
tables            effects of any table of trials: cnnstudy.effects
participation     how many trials of each level are compared on each basis, and whether they are enough
resampled         means over seeds that divide one pool of images anew
looks             levels of tests and intervals where a study is looked at after each seed
stopping          whether a study that stops when its question is answered has its answer
interim           that decision in a process of its own, for the driver
power             which difference a factorial can tell, before it runs
power_law         a falling power law with a floor, and what its fits allow
data_law          gap and accuracy against the number of training images
ranges            where in a range an outcome is best
importance        the share of an outcome's variance that each factor explains
next_steps        what to do after a study, from what it found
question          what the study is asked: which effects are its answers
causes            effects, data law and importances of each network, and warnings about them
effects_text      the effects in words
named_causes      what causes the overfitting, in a sentence
configurations    all seeds of a configuration judged together
confirmation      the best candidates retrained with fresh seeds, their ranking, and its record
confirmation_text the champion in words
comparison        two studies side by side: settings, outcomes, effects
comparison_champions  their champions
comparison_text   the comparison in words

May import: errors, names, records, system, data, config, training.verdict, tracking.recorded.
"""
