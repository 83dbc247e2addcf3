"""Networks of many seeds at once: explicit ``[rows, in, out]`` layers over flat parameter rows; no losses, no loops."""
