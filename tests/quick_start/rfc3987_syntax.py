"""Stand-in for a package that takes seconds to import and that no test uses.

jsonschema, which MONAI imports, checks addresses with it where it is installed.
"""

raise ImportError("absent in tests: it takes seconds to import")
