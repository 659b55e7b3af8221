"""The wing that knows programs and no numbers: tracing, dataflow, sites, rewriting."""
