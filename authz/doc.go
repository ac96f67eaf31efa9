// Package authz holds the rules between GitLab and Kubernetes: who effectively is a member of what, which
// ClusterRole a GitLab access level stands for, how a namespace is named, and why somebody was refused.
//
// It is pure: it does no I/O, reads no clock and writes no log; time and data are arguments. It does not know
// how GitLab is read (internal/gitlab) nor how the cluster is changed (rbacsync).
package authz
