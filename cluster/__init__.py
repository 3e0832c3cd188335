"""Starting a job: in this process, on Ray on this machine, or on a running Ray cluster. The first package to import ray."""
