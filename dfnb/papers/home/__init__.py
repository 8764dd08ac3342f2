"""The papers of the reader's own home: ``papers/<name>.py`` there is ``dfnb.papers.home.<name>``.

So a file there may have any name: it hides no module of the package, and replaces none.
:func:`dfnb.papers.modules` sets the folder, which depends on the home.
"""
