package ci

import (
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
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
	IssuedAt   int64 `json:"iat"`
	Expiry     int64 `json:"exp"`
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

// keyID returns which of the API server's keys signed the token, "" if that can't be told.
func keyID(token []byte) string {
	head, _, _ := strings.Cut(string(token), ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	var h struct {
		KeyID string `json:"kid"`
	}
	if err != nil || json.Unmarshal(raw, &h) != nil {
		return ""
	}
	return h.KeyID
}

// life returns how long the token was issued for, 0 if that can't be told.
func (c claims) life() time.Duration { return time.Duration(c.Expiry-c.IssuedAt) * time.Second }

// stale says why the Secret needs a new token, or "". retired reports whether the API server has given up a key.
func stale(s *corev1.Secret, account types.UID, ca []byte, retired func(keyID string) bool, now time.Time) string {
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
	case string(s.Data[keyCA]) != string(ca) || string(s.Data[keyNamespace]) != s.Namespace:
		return "changed CA or namespace in the Secret"
	case retired(keyID(s.Data[keyToken])):
		return "the API server has given up the key that signed it"
	case err != nil:
		return "no time of rotation"
	case !now.Before(rotate):
		return "most of its life is over"
	}
	return ""
}

// rotateAt returns when to replace a token: when 75 to 80 % of its life are over, in each namespace at another
// moment, so that tokens issued together are not all replaced together.
func rotateAt(namespace string, issued, expires time.Time) time.Time {
	h := fnv.New32a()
	_, _ = h.Write([]byte(namespace)) // hash.Hash never returns an error
	share := 0.80 - 0.05*float64(h.Sum32())/float64(1<<32)
	return issued.Add(time.Duration(share * float64(expires.Sub(issued))))
}
