package ci

import (
	"bytes"
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
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

func parseClaims(token []byte) (c claims, ok bool) {
	parts := strings.Split(string(token), ".")
	return c, len(parts) == 3 && decode(parts[1], &c)
}

// keyID returns which of the API server's keys signed the token, "" if that can't be told.
func keyID(token []byte) string {
	head, _, _ := strings.Cut(string(token), ".")
	var h struct {
		KeyID string `json:"kid"`
	}
	_ = decode(head, &h)
	return h.KeyID
}

// decode reads one part of a JWT.
func decode(part string, into any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(raw, into) == nil
}

// life returns how long the token was issued for, 0 if that can't be told.
func (c claims) life() time.Duration { return time.Duration(c.Expiry-c.IssuedAt) * time.Second }

func hasToken(s *corev1.Secret) bool { return s != nil && len(s.Data[keyToken]) > 0 }

// stale says why the Secret needs a new token, or "".
func (w *secrets) stale() string {
	s := w.s
	c, ok := parseClaims(s.Data[keyToken])
	rotate, err := time.Parse(time.RFC3339, s.Annotations[kubename.AnnotationRotateAt])
	switch {
	case !hasToken(s):
		return "no token yet"
	case !ok:
		return "unreadable token"
	case c.Kubernetes.Namespace != s.Namespace || c.Kubernetes.Account.Name != kubename.CIServiceAccount:
		return "token of another ServiceAccount"
	case c.Kubernetes.Secret.UID != s.UID:
		return "token bound to an earlier Secret"
	case w.n.Account != "" && c.Kubernetes.Account.UID != w.n.Account:
		return "token of an earlier ServiceAccount"
	case !bytes.Equal(s.Data[keyCA], w.facts.cluster.CA) || string(s.Data[keyNamespace]) != s.Namespace:
		return "changed CA or namespace in the Secret"
	case w.p.keys.retired(keyID(s.Data[keyToken])):
		return "the API server has given up the key that signed it"
	case err != nil:
		return "no time of rotation"
	case !w.p.c.Now().Before(rotate):
		return "most of its life is over"
	}
	return ""
}

// rotateAt returns when to replace a token: when 75 to 80 % of its life are over, in each namespace at another
// moment, so that tokens issued together are not all replaced together.
func rotateAt(namespace string, issued, expires time.Time) time.Time {
	share := 0.80 - 0.05*fraction(namespace)
	return issued.Add(time.Duration(share * float64(expires.Sub(issued))))
}

// fraction makes a number from 0 to 1 of a text, the same one each time.
func fraction(text string) float64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // hash.Hash never returns an error
	return float64(h.Sum32()) / float64(1<<32)
}
