"""Access to the cluster: kubeconfig, API, Helm releases, add-ons."""
