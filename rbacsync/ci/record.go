package ci

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// record is what a project was given, durably: it is in an annotation of the Secret. There is no secret in it.
type record struct {
	Delivery rbacsync.Delivery `json:"mode,omitempty"`
	Since    time.Time         `json:"since,omitzero"` // when the mode was delivered first
	Scope    string            `json:"scope,omitempty"`
	// Sums tell for each part of what was delivered whether it is still the same.
	Sums    map[string]string `json:"sums,omitempty"`
	Written time.Time         `json:"written,omitzero"` // when GitLab was written to last
	// Former are modes that left something in GitLab which has to be removed.
	Former []former `json:"former,omitempty"`
	Slug   string   `json:"slug,omitempty"`
	SlugOf string   `json:"slugOf,omitempty"` // the environment with that slug
	// Foreign are the keys of variables that somebody else has taken.
	Foreign []string `json:"foreign,omitempty"`
	// Doubt are sums that parts may still have, beside those in Sums: of what was about to be written when we ended, and of
	// what is to be taken back. Where GitLab's mark does not tell whose a variable is, these do.
	Doubt map[string][]string `json:"doubt,omitempty"`
	// Other is set while another cluster's variables or integration are in the place of ours.
	Other *other `json:"other,omitempty"`

	// Token is the one that is in what was delivered.
	Token *issued `json:"token,omitempty"`

	// Explained is what jobs without credentials are told by; nil: nothing.
	Explained *explained `json:"explained,omitempty"`

	// Looked is when all of it was written last, or GitLab was asked last what the project has, where readings don't show it.
	Looked time.Time `json:"looked,omitzero"`

	refused bool      // the agent may not be used; not durable
	seen    time.Time // when the reading was begun that showed last what the project has; not durable
}

type other struct {
	Cluster string   `json:"cluster,omitempty"`
	Keys    []string `json:"keys,omitempty"`
}

type former struct {
	Delivery rbacsync.Delivery `json:"mode"`
	Scope    string            `json:"scope"`
}

func (r record) clone() record {
	r.Sums, r.Former, r.Foreign = maps.Clone(r.Sums), slices.Clone(r.Former), slices.Clone(r.Foreign)
	r.Doubt = maps.Clone(r.Doubt) // its lists are replaced, never changed
	return r
}

// leave notes that a mode has something in GitLab which is to go.
func (r *record) leave(m rbacsync.Delivery, scope string) {
	if f := (former{m, scope}); m != "" && m != rbacsync.DeliverNone && !slices.Contains(r.Former, f) {
		r.Former = append(r.Former, f)
	}
}

// maxDoubt bounds how many sums of one part are in doubt: each failure leaves one.
const maxDoubt = 8

// doubt notes that a part may have this sum in GitLab.
func (r *record) doubt(key, sum string) {
	if sum == "" || key == clusterPart || slices.Contains(r.Doubt[key], sum) {
		return
	}
	if r.Doubt == nil {
		r.Doubt = map[string][]string{}
	}
	sums := append(slices.Clone(r.Doubt[key]), sum)
	r.Doubt[key] = sums[max(0, len(sums)-maxDoubt):]
}

// sums returns all sums that a variable of ours may have in GitLab: none if we don't know it as ours.
func (r *record) sums(key string) []string {
	if slices.Contains(r.Foreign, key) {
		return nil
	}
	out := r.Doubt[key]
	if s := r.Sums[key]; s != "" {
		out = append(slices.Clone(out), s)
	}
	return out
}

// wrote reports whether a value is what we wrote, with whatever attributes it has now.
func (r *record) wrote(key, value string) bool {
	have := r.sums(key)
	for i := range 8 {
		if slices.Contains(have, sumOf(Variable{Value: value, File: i&1 > 0, Masked: i&2 > 0, Protected: i&4 > 0})) {
			return true
		}
	}
	return false
}

// maxAnnotation bounds one annotation; all of an object together may take 256 KiB.
const maxAnnotation = 110 << 10

// records reads what is kept on a Secret. What can't be read is as good as nothing: all is delivered again.
func records(s *corev1.Secret) map[int64]record {
	out := map[int64]record{}
	if json.Unmarshal([]byte(s.Annotations[kubename.AnnotationCIProjects]), &out) != nil {
		return map[int64]record{}
	}
	return out
}

// setRecords keeps records on the Secret.
func setRecords(s *corev1.Secret, recs map[int64]record) error {
	var text []byte
	if len(recs) > 0 {
		var err error
		if text, err = json.Marshal(recs); err != nil {
			return fmt.Errorf("writing down what was delivered: %w", err)
		}
	}
	if len(text) > maxAnnotation {
		return fmt.Errorf("%d projects deploy into namespace %s, more than can be kept track of: let some of them deploy into their own (ci.projects, namespace: project)", len(recs), s.Namespace)
	}
	annotate(s, kubename.AnnotationCIProjects, string(text))
	return nil
}

// readers returns the people who could have read the token.
func readers(s *corev1.Secret) (ids []int64) {
	if s == nil {
		return nil
	}
	for part := range strings.SplitSeq(s.Annotations[kubename.AnnotationCIReaders], ",") {
		if id, err := strconv.ParseInt(part, 10, 64); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

func setReaders(s *corev1.Secret, ids []int64) error {
	parts := make([]string, 0, len(ids))
	for _, id := range ids {
		parts = append(parts, strconv.FormatInt(id, 10))
	}
	text := strings.Join(parts, ",")
	if len(text) > maxAnnotation {
		return fmt.Errorf("%d people can read the CI token of namespace %s, more than can be kept track of", len(ids), s.Namespace)
	}
	annotate(s, kubename.AnnotationCIReaders, text)
	return nil
}

// annotate sets an annotation, or removes it when the value is empty.
func annotate(s *corev1.Secret, key, value string) {
	if value == "" {
		delete(s.Annotations, key)
		return
	}
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, key, value)
}
