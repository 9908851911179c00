"""The people's side over HTTP: login pages and the JSON API."""
