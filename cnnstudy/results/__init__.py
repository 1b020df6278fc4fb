"""Output for users: terminal tables, HTML pages, drawings of networks, predictions and exported models.

Comes in: recorded studies and their analysis. Goes out: text, HTML, images and model files. Nothing here decides
anything about a study.

terminal         recorded studies on the terminal: trials, effects, champion, comparison
watch            the live view of a study that another process runs
study_note       the description of a study's own run in MLflow
models           find a trained model, classify images with it, export it
mistakes         a model's mistakes, explained by a worker
lookalikes       pictures that a network's features show as alike, found by a worker
json_answers     what commands print with --json
network_summary  the layers of a network, counted and printed
network_drawing  a network as a picture

The HTML pages are in the room `pages`.

May import: every room above.
"""
