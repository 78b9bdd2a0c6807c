"""Limits on what others provide: files, text, and code in templates.

regular_files  regular files of bounded size
json_text      strict JSON
python_text    lists and objects as Python prints them
yaml_text      strict YAML
visible        hidden and steering characters made visible
time_limit     a time limit for Python code
"""
