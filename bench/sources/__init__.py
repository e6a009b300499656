"""The source servers of the benchmark, each started on a data folder that outlives the run."""
