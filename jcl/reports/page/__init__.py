"""The page of runs, `report.html`: one file that needs no other and no network.

`document` puts it together from sections; `markup` and `charts` write HTML and SVG. Every text that
comes from a run is escaped, cut and given its own direction of writing where it enters the page.
"""
