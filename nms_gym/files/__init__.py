"""Our own files and others' formats: subjects, posteriors, models; writing, reading and looking at them."""
