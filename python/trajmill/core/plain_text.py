"""Names that others chose, such as those of files, keys and datasets, as a terminal may show them."""


def plain_text(text: str, keep: str = "\n\t") -> str:
    r"""The text with what is not printable, but for `keep`, as ``\x1b`` or ``\u202e``: it cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else repr(each)[1:-1] for each in text)
