"""A Kubernetes cluster inside this machine: real control plane, real Karpenter, and stand-ins for what needs machines.

binaries        finds or builds etcd, the control plane and Karpenter
certificates    the cluster's own certificate authority
control_plane   starts and ends etcd, API server, controller manager and scheduler
crds            what is beside Karpenter on a real cluster
node_config     what the user data of an instance tells kubelet
launch_template what Karpenter asked EC2 for, held against the charts
kubelet         stand-in: registers a node, runs its pods as processes
logs            what kubelet tells the API server for `kubectl logs`
machines        stand-in for EC2 and the node's daemons: boots what Karpenter launches, ends what it terminates
services        stand-in for kube-proxy
local_cluster   all of it as one thing: up, down, status
"""
