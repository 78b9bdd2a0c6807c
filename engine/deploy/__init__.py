"""From a measured draft to the server that people use: what to expect of it there, and what the server reported.

readers/  what servers report, read
"""
