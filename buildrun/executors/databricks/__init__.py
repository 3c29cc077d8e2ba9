"""Steps as job runs at Databricks: submitted, followed, and their files brought there and back.

Its face: `api`, `auth`.
"""
