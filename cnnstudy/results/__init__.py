"""Output for users: terminal tables, HTML pages, drawings of networks, predictions and exported models.

Comes in: recorded studies and their analysis. Goes out: text, HTML, images and model files. Nothing here decides
anything about a study.

May import: every room above.
"""
