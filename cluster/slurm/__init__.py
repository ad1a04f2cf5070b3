"""Jobs and queues of Slurm."""
