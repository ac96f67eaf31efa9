package store

import (
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// Names of the objects in the program's own namespace.
const (
	NameLease    = "gl-k8s-integrator"
	NameKeys     = "gl-k8s-integrator-keys"     // Secret: GitLab's signing keys, see internal/keystore
	NameSnapshot = "gl-k8s-integrator-snapshot" // Secrets: the last reading of GitLab
	NameHistory  = "gl-k8s-integrator-history"  // Secrets: the last changes
	NameAudit    = "gl-k8s-integrator-audit"    // Secrets: who had what, see internal/audit
	NameStatus   = "gl-k8s-integrator-status"   // ConfigMap
	NameInbox    = "gl-k8s-integrator-inbox"    // ConfigMap: what hooks named and no round has read yet
	// NameHeld and NameApprovals are ConfigMaps: what is held back, and which of it was approved.
	NameHeld      = "gl-k8s-integrator-plan"
	NameApprovals = "gl-k8s-integrator-approvals"
)

type (
	secretClient    = corev1client.SecretInterface
	configMapClient = corev1client.ConfigMapInterface
	leaseClient     = coordinationclient.LeaseInterface
)

func ownLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "gl-k8s-integrator"}
}
