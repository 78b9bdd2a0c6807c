"""Places beyond this machine: runs, captures and trainings on engines that exist (Ray, Slurm, torch.distributed).

Everything here needs the extra `draftbench[cluster]`, and nothing else needs anything here.
"""
