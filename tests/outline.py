"""Reads a page as a browser does, for the tests of what writes one."""

import html.parser


class Outline(html.parser.HTMLParser):
    """Tags, attributes and text of a page; refuses tags that do not nest."""
    VOID = frozenset({"meta", "img", "input", "br"})

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]
