"""A Kubernetes cluster inside this machine: real control plane, real Karpenter, and stand-ins for what needs machines.

binaries        finds or builds etcd, the control plane and Karpenter
certificates    the cluster's own certificate authority
control_plane   starts and ends etcd, API server, controller manager and scheduler
api             the client that everything here talks to the API server with
node_config     what the user data of an instance tells kubelet
kubelet         stand-in: registers a node, runs its pods as processes
machines        stand-in for EC2 and the node's daemons: boots what Karpenter launches, ends what it terminates
local_cluster   all of it as one thing: up, down, status
"""
