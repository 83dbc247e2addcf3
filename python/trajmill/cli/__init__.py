"""The command line: parses, calls one pipeline function, prints."""
