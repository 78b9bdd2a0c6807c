"""Answers token by token, whether live, saved or part of a measurement.

trace     a decoded answer in one form
saved     answers saved from the live view
measured  answers of a run's measurement
"""
