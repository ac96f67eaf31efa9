// Command sync measures the sync engine at the size of a large GitLab and prints one BENCH line per number.
//
// Everything in it is real except GitLab, which is internal/gitlabsim with GitLab's default rate limits on: etcd,
// kube-apiserver and kube-controller-manager with the tenant fence and the integrator's cage, and the integrator
// itself as a process of its own (`serve`), which knows nothing of being measured. What it wrote, and when, is read
// from kube-apiserver's audit log, so the numbers don't depend on what the program says about itself.
//
// It does not promise the same numbers on another machine; ratios (sync.apply_vs_raw) and counts should hold.
package main
