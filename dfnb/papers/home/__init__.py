"""The papers of the reader's own home: ``papers/<name>.py`` there is ``dfnb.papers.home.<name>``.

So a file there hides no module of the package and replaces none, even one of the same name. Only
the name of another paper is refused.
:func:`dfnb.papers.modules` sets the folder, which depends on the home.
"""
