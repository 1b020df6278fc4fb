"""What people look at: tables on the terminal, pages, pictures of networks, predictions and exported models.

Comes in: recorded studies and what `analysis` says of them. Goes out: text, HTML, images and model files. Nothing here
decides anything about a study.

May import: every room above.
"""
