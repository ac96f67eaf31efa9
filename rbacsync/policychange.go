package rbacsync

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Right names what one person has in the namespace of one source; user 0 is the CI of the namespace, and no role the namespace itself.
type Right struct {
	Source authz.SourceID
	Role   string
	User   int64
}

func (i Item) right() Right { return Right{i.Source, i.Role, i.User} }

// SamePolicy reports whether two policies are made of the same.
func SamePolicy(a, b authz.Policy) bool { return contentOf(a) == contentOf(b) }

func contentOf(p authz.Policy) string {
	text, _ := json.Marshal(p.Config()) // it consists of texts and numbers, which is no error
	return string(text)
}

// PoliciesBefore returns the policies other than the present one that the cluster may have been written by since it last agreed
// with one, and with that one.
func (e Evidence) PoliciesBefore() (out []authz.Policy) {
	all := e.Begun
	if e.Was != nil {
		all = append([]authz.Policy{*e.Was}, all...)
	}
	for _, p := range all {
		if !SamePolicy(p, e.Policy) && !slices.ContainsFunc(out, func(o authz.Policy) bool { return SamePolicy(o, p) }) {
			out = append(out, p)
		}
	}
	return out
}

// change names the change to the present policy by what the policies are made of; "" for none.
func (e Evidence) change() string {
	var parts []string
	if e.Was == nil {
		parts = append(parts, "unknown")
	}
	for _, p := range e.PoliciesBefore() {
		parts = append(parts, contentOf(p))
	}
	if len(parts) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join(append(parts, contentOf(e.Policy)), "\n")))
	return hex.EncodeToString(sum[:8])
}

// policyChange finds the rights that are lost because the policy changed, and not because GitLab did (docs/adr/0082):
// what a policy of before gives on what GitLab says now; unless the present policy would have given it on what GitLab
// said before, for then GitLab is the reason. Without a policy of before it is what GitLab does not explain either.
// It returns what names the change, "" for none, too.
func (j *judge) policyChange(lost []losers) (change string, taken map[Right]bool) {
	if change = j.e.change(); change == "" {
		return "", nil
	}
	rights, sources := map[Right]bool{}, map[authz.SourceID]bool{}
	for _, c := range lost {
		if !j.e.Snapshot.Contains(c.Source) {
			continue
		}
		for _, u := range c.users {
			if role := c.Old.Binding.Role; !j.promoted(c.Key.Namespace, role, u) {
				rights[Right{c.Source, role, u}], sources[c.Source] = true, true
			}
		}
	}
	if len(rights) == 0 {
		return change, nil
	}
	now, before := map[Right]bool{}, map[Right]bool{}
	for _, p := range j.e.PoliciesBefore() {
		maps.Copy(now, RightsIn(p, j.e.Snapshot, sources, j.now))
	}
	if j.e.Before != nil {
		before = RightsIn(j.e.Policy, j.e.Before, sources, j.now)
	}
	maps.DeleteFunc(rights, func(r Right, _ bool) bool {
		return before[r] || !now[r] && (j.e.Was != nil || !j.unexplained(r))
	})
	return change, rights
}

// RightsIn returns what a policy gives in some sources.
func RightsIn(p authz.Policy, snap *authz.Snapshot, ids map[authz.SourceID]bool, now time.Time) map[Right]bool {
	out := map[Right]bool{}
	var sources []authz.Source
	for id := range ids {
		if src, ok := p.Source(snap, id); ok {
			sources = append(sources, src)
			if !src.ReadOnly {
				out[Right{id, kubename.CIClusterRole, 0}] = true
			}
		}
	}
	grants, _ := p.Grants(snap, sources, now)
	for _, g := range grants {
		for _, u := range g.Users {
			out[Right{g.Source, g.ClusterRole, u}] = true
		}
	}
	return out
}

// promoted reports whether a person who loses a role gets a stronger one in the namespace.
func (j *judge) promoted(ns, role string, user int64) bool {
	stronger := j.e.Policy.BaseRoles()
	stronger = stronger[:max(0, slices.Index(stronger, role))]
	return user != 0 && slices.ContainsFunc(stronger, func(r string) bool { return elsewhere(j.want.Inside(ns), r, user) })
}

// unexplained reports whether GitLab shows no reason why a right is lost. A lower level is one only if it was seen to be
// higher.
func (j *judge) unexplained(r Right) bool {
	active := func(user int64) bool { return j.e.Snapshot.Users[user].State == authz.StateActive }
	if r.User != 0 && !active(r.User) || r.Source.Kind == authz.UserSource && !active(r.Source.ID) {
		return false
	}
	if _, wanted := j.e.Policy.Source(j.e.Snapshot, r.Source); !wanted || r.User == 0 {
		return !wanted
	}
	have, _ := j.at.access(r.Source, r.User)
	return have.Level > authz.MinimalAccess || !slices.Contains(j.e.Policy.ClusterRoles(), r.Role)
}
