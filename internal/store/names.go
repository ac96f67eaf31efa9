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
	NameHistory  = "gl-k8s-integrator-history"  // Secrets: the last changes, as versions before NameAudit wrote them
	// NameAudit begins the names of the Secrets of the history, see internal/audit; NameAuditBase is one of them.
	NameAudit     = "gl-k8s-integrator-audit"
	NameAuditBase = NameAudit + "-base"
	NameStatus    = "gl-k8s-integrator-status" // ConfigMap
	NameInbox     = "gl-k8s-integrator-inbox"  // ConfigMap: what hooks named and no round has read yet
	// NameHeld and NameApprovals are ConfigMaps: what is held back, and which of it was approved.
	NameHeld      = "gl-k8s-integrator-plan"
	NameApprovals = "gl-k8s-integrator-approvals"
)

type (
	secretClient    = corev1client.SecretInterface
	configMapClient = corev1client.ConfigMapInterface
	leaseClient     = coordinationclient.LeaseInterface
)

// OwnLabels are on the Secrets that are the program's own.
func OwnLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "gl-k8s-integrator"}
}
