// Package keystore keeps GitLab's last known signing keys in the cluster, so that a restart while GitLab is away locks nobody
// out. It judges no token.
package keystore
