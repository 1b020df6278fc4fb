"""Output for users: terminal tables, HTML pages, drawings of networks, predictions and exported models.

Input: recorded studies and their analysis. Output: text, HTML, images and model files. Nothing here makes a decision
about a study.

May import: every room except cli.
"""
