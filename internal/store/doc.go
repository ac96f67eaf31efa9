// Package store keeps the program's own state in its own namespace of the cluster: the last Snapshot of GitLab and
// other blobs in Secrets, the inbox of hooks, what is held back and what was approved in ConfigMaps, and who leads in a Lease.
//
// It promises that a reader sees either the old or the new content of a blob, never a mixture; that what was put into
// the inbox is there when Put returns; and that a leader knows in time that it no longer is one (Elector.May).
// It needs no more rights than the Role in deploy/manifests gives: objects of fixed names, which it never lists.
// It doesn't know what rights are.
package store
