// Package controlplane runs a real Kubernetes control plane (etcd, kube-apiserver, kube-controller-manager) on
// this machine, for the demo and the tests, and builds its programs from Go modules when they are not there yet.
//
// It promises that Start returns a cluster that answers, whose aggregated ClusterRoles have their rules and whose
// controllers run; that everything listens on loopback or on a Unix socket in a private folder; that a failed
// start quotes what the guilty process said; and that no process outlives this one, not even when this one is
// killed with SIGKILL.
//
// It does not promise a cluster to work in: there are no nodes, data is not synced to disk, certificates last
// thirty days, and a state folder serves one start.
package controlplane
