"""The cluster: kubeconfig, API, Helm releases, add-ons."""
