// Package uninstall takes out of GitLab and of a cluster what the integrator has put there. It first shows, and then does, step
// by step; each step looks for what is left, so that whoever is interrupted begins again where they were.
//
// It leaves namespaces and what people have made in them, and what administrators made: the program's own namespace with its
// configuration, and the flags of kube-apiserver.
package uninstall
