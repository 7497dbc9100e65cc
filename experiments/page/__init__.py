"""The page of results: what `experiments.report --html=FILE` writes.

`content` gathers what is shown from the records and from what lies beside them, `html`
puts it into one file with the style and the scripts of this folder. three.js draws the
motion; its licence is in THREE_LICENSE.txt.
"""
