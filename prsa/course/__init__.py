"""Exercises that check themselves: what a class needs beside the notebooks.

check    right, wrong, not attempted and error told apart; the score as JSON
answers  what is right, computed from the package and the teaching results; hints; common slips
claim    a claim frozen as a hash, and the new scene that the hash chooses for its test
copies   student copies, instructor copies and a zip from one source per exercise
grading  what was handed in, executed again with the checks of the source

``python -m prsa.course`` (or ``make course``) writes the copies. The sources are in ``notebooks/course/``.
"""
