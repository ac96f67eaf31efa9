package ci

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Keys of the Secret's data.
const (
	keyToken     = "token"
	keyCA        = "ca.crt"
	keyNamespace = "namespace"
	keyExpires   = "expires" // RFC 3339
)

// claims are what kube-apiserver writes into a bound token (KEP-1205). They are read without a check of the
// signature, only to notice a token that can't work any more.
type claims struct {
	Kubernetes struct {
		Namespace string `json:"namespace"`
		Account   ref    `json:"serviceaccount"`
		Secret    ref    `json:"secret"`
	} `json:"kubernetes.io"`
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

func parseClaims(token []byte) (c claims, ok bool) {
	parts := strings.Split(string(token), ".")
	if len(parts) != 3 {
		return c, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, false
	}
	return c, json.Unmarshal(raw, &c) == nil
}

// stale says why the Secret needs a new token, or "".
func stale(s *corev1.Secret, account types.UID, cluster Cluster, now time.Time) string {
	c, ok := parseClaims(s.Data[keyToken])
	rotate, err := time.Parse(time.RFC3339, s.Annotations[kubename.AnnotationRotateAt])
	switch {
	case len(s.Data[keyToken]) == 0:
		return "no token yet"
	case !ok:
		return "unreadable token"
	case c.Kubernetes.Namespace != s.Namespace || c.Kubernetes.Account.Name != kubename.CIServiceAccount:
		return "token of another ServiceAccount"
	case c.Kubernetes.Secret.UID != string(s.UID):
		return "token bound to an earlier Secret"
	case account != "" && c.Kubernetes.Account.UID != string(account):
		return "token of an earlier ServiceAccount"
	case string(s.Data[keyCA]) != string(cluster.CA) || string(s.Data[keyNamespace]) != s.Namespace:
		return "changed CA or namespace in the Secret"
	case err != nil:
		return "no time of rotation"
	case !now.Before(rotate):
		return "80 % of its life are over"
	}
	return ""
}
