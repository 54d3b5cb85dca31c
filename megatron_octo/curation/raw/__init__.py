"""Raw corpora to documents: files, pages, formulas, quality."""
