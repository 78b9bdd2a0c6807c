"""Places beyond this machine: runs, captures and trainings on engines that exist (Ray, Slurm, torch.distributed).

Everything here needs the extra `draftbench[cluster]`, and nothing else needs anything here.

ray_connection  addresses of Ray clusters
node            what a node must have in common with the machine that sends work
shared_home     whether a node sees the home, and where it works if not
shards_on_ray   the shards of a capture, filled by a Ray cluster
shard_conductor  Ray Data for them, driven inside the cluster
shard_worker    a worker that loads the target once and fills them
"""
