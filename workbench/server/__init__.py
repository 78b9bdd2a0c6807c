"""The server around the pages.

guard           which requests are answered
allowed_routes  closes routes that are not used
base_url        tells a page its base URL
startup         warnings, sample runs, index and queue at the start
"""
