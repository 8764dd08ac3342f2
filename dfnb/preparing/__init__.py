"""From videos, images and downloads to a dataset: faces are found, cut out alike, and listed.

One wing with one door, :func:`dfnb.preparing.prepare.prepare`: the command line, a script and the
notebooks 01 and 08 enter it, and no training, table or paper does.
"""
