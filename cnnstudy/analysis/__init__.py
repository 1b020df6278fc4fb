"""What comes of a study's runs.

leaderboard    one row a trial
spreadsheet    what a spreadsheet makes of a cell
trials         which runs are a study's trials
pareto         the trials that no other is better than in all that counts
classes        precision and recall of each class
curves         pictures of a trial
observations   trials on an equal basis: epochs, updates, train loss
tuning         factors that take their best level in each cell
contrasts      a factor's levels compared by matched pairs within a seed
regression     the same by least squares, where no two trials match
inference      intervals over few seeds, and the correction for many comparisons
effects        which factor causes how many points
data_law       the gap against the number of images
importance     the share of the variance that each factor explains
causes         all of that, network by network
sentences      the answer in words
champion       the best candidates with fresh seeds, and how they stand; beside it: all of it with the test split, and
               its record (confirmed), and in words (selection)
pairing        the trials of two studies matched with each other
comparison     two studies side by side; beside it: what differed (comparison_settings), their champions
               (comparison_champions), and all of it in words (comparison_sentences)
"""
