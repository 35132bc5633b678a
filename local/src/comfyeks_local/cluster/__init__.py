"""A Kubernetes cluster inside this machine: real control plane, real Karpenter, and stand-ins for machines.

binaries        finds or builds etcd, the control plane and Karpenter
certificates    the cluster's own certificate authority
control_plane   starts and stops etcd, API server, controller manager and scheduler
crds            CRDs of the other add-ons of a real cluster
launch_template compares what Karpenter requested from EC2 with what the charts require
kubelet         stand-in for kubelet: registers a node, runs its pods as processes
logs            serves the containers' logs for `kubectl logs`
machines        stand-in for EC2's hosts and a node's daemons: boots launched instances, removes terminated ones
services        stand-in for kube-proxy
local_cluster   all of these together: up, down, status
"""
